"""Load on a model server, embedded or real: latency, goodput and rejects as a table.

    python -m benchmarks.serving --address=localhost:8500 --closed=1,4,16 --open=50,100,200
    python -m benchmarks.serving --spawn=/abs/serving_model/htr --floor --closed=1,16 --overload
        [-- server flags, such as --enable_batching]

Closed loop: N callers, each sends its next request when the last one is answered; gives capacity. Open loop: requests
start at a fixed rate whether or not the server keeps up, and latency counts from the moment a request was due, so a
stalled server cannot hide its stalls (no coordinated omission). The floor calls the same signature of the same
SavedModel in a process without any server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

REFUSALS = ("RESOURCE_EXHAUSTED", "UNAVAILABLE")  # what a server answers at once; a deadline that passed is none
METHOD = "/tensorflow.serving.PredictionService/Predict"


def synthetic_png(width: int = 128, height: int = 32) -> bytes:
    """Returns a grey PNG of about a word's size, with some ink on it."""
    rng = random.Random(0)
    rows = [bytes(255 if rng.random() < 0.85 else 40 for _ in range(width)) for _ in range(height)]

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _field(number: int, data: bytes) -> bytes:
    out = bytearray([number << 3 | 2])
    size = len(data)
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out) + data


def predict_request(model: str, signature: str, alias: str, images: list[bytes]) -> bytes:
    """Returns a serialised PredictRequest, made by hand: the load tool must not need TensorFlow."""
    spec = _field(1, model.encode()) + (_field(3, signature.encode()) if signature else b"")
    shape = _field(2, bytes([0x08, len(images)])) if len(images) < 128 else b""
    if not shape:
        raise SystemExit("at most 127 images a request")
    tensor = b"\x08\x07" + _field(2, shape) + b"".join(_field(8, image) for image in images)
    return _field(1, spec) + _field(2, _field(1, alias.encode()) + _field(2, tensor))


def percentile(values: list[float], share: float) -> float:
    """Returns a percentile, nan without values."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass
class Result:
    """What one run saw."""

    name: str
    seconds: float = 0.0
    rows: int = 1
    good: list[float] = field(default_factory=list)
    rejected: list[float] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    server: dict[str, float] = field(default_factory=dict)

    def line(self) -> dict[str, str]:
        """Returns the table's row."""
        rate = len(self.good) / self.seconds if self.seconds else 0.0
        errors = " ".join(f"{code}:{count}" for code, count in sorted(self.codes.items()) if code != "OK")
        rejects = "/".join(f"{percentile(self.rejected, share) * 1e3:.1f}" for share in (0.5, 0.99))
        return {
            "load": self.name,
            "goodput/s": f"{rate:.0f}",
            "rows/s": f"{rate * self.rows:.0f}",
            "p50 ms": f"{percentile(self.good, 0.50) * 1e3:.1f}",
            "p95 ms": f"{percentile(self.good, 0.95) * 1e3:.1f}",
            "p99 ms": f"{percentile(self.good, 0.99) * 1e3:.1f}",
            "reject p50/p99 ms": rejects if self.rejected else "-",
            "batch": f"{self.server['batch']:.1f}" if "batch" in self.server else "-",
            "RSS MB": f"{self.server['rss'] / 1e6:.0f}" if "rss" in self.server else "-",
            "errors": errors or "-",
        }


def print_rows(lines: list[dict[str, str]]) -> None:
    """Prints rows with the same columns as a Markdown table."""
    if not lines:
        return
    widths = {name: max(len(name), *(len(line[name]) for line in lines)) for name in lines[0]}
    print("| " + " | ".join(name.ljust(width) for name, width in widths.items()) + " |")
    print("|" + "|".join("-" * (width + 2) for width in widths.values()) + "|")
    for line in lines:
        print("| " + " | ".join(line[name].ljust(width) for name, width in widths.items()) + " |")


class Watch:
    """Reads the server's metrics page and memory, where they can be had."""

    def __init__(self, rest: str, path: str, pid: int | None) -> None:
        self.url = f"http://{rest}{path}" if rest else ""
        self.pid = pid

    def read(self) -> dict[str, float]:
        """Returns counters by name, and `rss`."""
        found: dict[str, float] = {}
        if self.url:
            try:
                with urllib.request.urlopen(self.url, timeout=5) as response:
                    page = response.read().decode()
            except OSError:
                page = ""
            for name in ("processed_batch_size_sum", "processed_batch_size_count"):
                match = re.search(rf"^:tensorflow:serving:batching:{name}\{{[^}}]*\}} ([\d.e+]+)", page, re.MULTILINE)
                if match:
                    found[name] = float(match[1])
        if self.pid:
            statm = Path(f"/proc/{self.pid}/statm")
            if statm.exists():
                found["rss"] = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return found

    def since(self, before: dict[str, float]) -> dict[str, float]:
        """Returns the mean batch size since an earlier reading, and the memory now."""
        after = self.read()
        out = {key: after[key] for key in ("rss",) if key in after}
        runs = after.get("processed_batch_size_count", 0) - before.get("processed_batch_size_count", 0)
        if runs > 0:
            rows = after["processed_batch_size_sum"] - before.get("processed_batch_size_sum", 0)
            out["batch"] = rows / runs
        return out


class Bench:
    """Sends one kind of request in several patterns."""

    def __init__(self, address: str, request: bytes, rows: int, deadline: float, watch: Watch) -> None:
        import grpc

        self._grpc = grpc
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channel = grpc.aio.insecure_channel(address, options)
        self._call = self.channel.unary_unary(METHOD)
        self.request = request
        self.rows = rows
        self.deadline = deadline
        self.watch = watch

    async def send(self, result: Result, due: float) -> None:
        """Sends one request, due at a moment that may be past."""
        try:
            await self._call(self.request, timeout=self.deadline)
        except self._grpc.RpcError as error:
            code = error.code().name
            result.codes[code] += 1
            if code in REFUSALS:
                result.rejected.append(time.perf_counter() - due)
        else:
            result.codes["OK"] += 1
            result.good.append(time.perf_counter() - due)

    async def closed(self, callers: int, seconds: float) -> Result:
        """Runs callers that wait for each answer."""
        result = Result(f"closed, {callers} callers", rows=self.rows)
        before = self.watch.read()
        started = time.perf_counter()
        until = started + seconds

        async def caller() -> None:
            while time.perf_counter() < until:
                await self.send(result, time.perf_counter())

        await asyncio.gather(*(caller() for _ in range(callers)))
        result.seconds = time.perf_counter() - started
        result.server = self.watch.since(before)
        return result

    async def open(self, rate: float, seconds: float) -> Result:
        """Starts requests at a fixed rate, come what may."""
        result = Result(f"open, {rate:.0f}/s", rows=self.rows)
        before = self.watch.read()
        rng = random.Random(1)
        tasks: set[asyncio.Task[None]] = set()
        started = due = time.perf_counter()
        while due < started + seconds:
            delay = due - time.perf_counter()
            if delay > 0:
                await asyncio.sleep(delay)
            elif not len(tasks) % 50:
                await asyncio.sleep(0)
            task = asyncio.ensure_future(self.send(result, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            due += rng.expovariate(rate)
        if tasks:
            await asyncio.wait(tasks)
        result.seconds = time.perf_counter() - started  # the answers of that wait count too
        result.server = self.watch.since(before)
        return result


async def overload(bench: Bench, callers: int, seconds: float) -> list[Result]:
    """Measures capacity, offers three times as much, then sees how fast the server is back."""
    capacity = await bench.closed(callers, 5)
    rate = len(capacity.good) / capacity.seconds
    capacity.name = f"capacity ({capacity.name})"
    flood = await bench.open(3 * rate, seconds)
    flood.name = f"3 x capacity, {seconds:.0f} s"
    after = await bench.closed(callers, 2)
    after.name = "the 2 s after it"
    return [capacity, flood, after]


def floor(model_dir: Path, signature: str, alias: str, image: bytes, sizes: list[int], seconds: float) -> list[Result]:
    """Calls the signature in this process, for each batch size."""
    import numpy as np

    from serving.runner import LoadedModel, RunnerOptions

    model = LoadedModel(model_dir, RunnerOptions())
    definition = model.signature(signature)
    tensor = next(entry.tensor for entry in definition.inputs if entry.alias == alias)
    fetches = list(definition.outputs.values())
    results = []
    for size in sizes:
        feeds = {tensor: np.array([image] * size, dtype=object)}
        for _ in range(5):
            model.run(feeds, fetches)
        result = Result(f"in process, batches of {size}", rows=size)
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            begin = time.perf_counter()
            model.run(feeds, fetches)
            result.good.append(time.perf_counter() - begin)
        result.seconds = time.perf_counter() - started
        results.append(result)
    return results


def spawn(base_path: str, model: str, flags: list[str], preload: str = "") -> tuple[subprocess.Popen[str], str, str]:
    """Starts an embedded server, with LD_PRELOAD if named; returns the process, its gRPC and its REST address."""
    monitoring = Path(__file__).resolve().parents[1] / "serving/production/monitoring.config"
    base = str(Path(base_path).absolute())
    arguments = ["--port=0", "--rest_api_port=-1", f"--model_name={model}", f"--model_base_path={base}"]
    with tempfile.TemporaryFile() as log:  # not a pipe: nobody reads it while the server works
        process = subprocess.Popen(
            [sys.executable, "-m", "serving.server", *arguments, f"--monitoring_config_file={monitoring}", *flags],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "LD_PRELOAD": preload} if preload else None,
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"grpc=(\S+) rest=(\S+)", line)
        if not found:
            process.kill()
            process.wait()
            log.seek(0)
            raise SystemExit(f"the server did not start: {line}{log.read().decode(errors='replace')[-2000:]}")
    return process, found[1], found[2]


def numbers(text: str) -> list[int]:
    """Parses `1,4,16`."""
    return [int(part) for part in text.split(",") if part]


def newest(base_path: str) -> Path:
    """Returns the directory of the newest version."""
    versions = [entry for entry in Path(base_path).iterdir() if entry.name.isdigit()]
    return max(versions, key=lambda entry: int(entry.name))


async def measure(args: argparse.Namespace, address: str, watch: Watch, image: bytes) -> list[Result]:
    """Runs the patterns asked for."""
    request = predict_request(args.model, args.signature, args.input, [image] * args.rows)
    bench = Bench(address, request, args.rows, args.deadline, watch)
    results = []
    await bench.closed(2, 1)  # warm connections and caches
    for callers in numbers(args.closed):
        results.append(await bench.closed(callers, args.seconds))
    for rate in numbers(args.open):
        results.append(await bench.open(rate, args.seconds))
    if args.overload:
        results += await overload(bench, args.overload_callers, args.overload_seconds)
    await bench.channel.close()
    return results


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", default="", help="host:port of a running server")
    parser.add_argument("--spawn", default="", metavar="BASE_PATH", help="start an embedded server on this model")
    parser.add_argument("--rest", default="", help="host:port of the REST API, for the mean batch size")
    parser.add_argument("--metrics_path", default="/monitoring/prometheus/metrics")
    parser.add_argument("--model", default="htr")
    parser.add_argument("--signature", default="", help="default: serving_default")
    parser.add_argument("--input", default="image_bytes")
    parser.add_argument("--image", default="", help="an image (default: a synthetic one)")
    parser.add_argument("--rows", type=int, default=1, help="images in a request")
    parser.add_argument("--closed", default="1,4,16", help="numbers of callers")
    parser.add_argument("--open", default="", help="rates per second")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each run")
    parser.add_argument("--deadline", type=float, default=5.0, help="seconds a request may take")
    parser.add_argument("--overload", action="store_true", help="three times the capacity, then recovery")
    parser.add_argument("--overload_seconds", type=float, default=30.0)
    parser.add_argument("--overload_callers", type=int, default=4)
    parser.add_argument("--floor", default="", nargs="?", const="1,8,32", help="in-process batches (needs --spawn)")
    parser.add_argument("--json", action="store_true", help="one JSON line a result instead of a table")
    parser.add_argument("flags", nargs="*", help="after --: flags of the spawned server")
    args = parser.parse_args()
    if bool(args.address) == bool(args.spawn):
        parser.error("give either --address or --spawn")
    image = Path(args.image).read_bytes() if args.image else synthetic_png()
    results: list[Result] = []
    if args.floor:
        if not args.spawn:
            parser.error("--floor needs --spawn")
        results += floor(newest(args.spawn), args.signature, args.input, image, numbers(args.floor), args.seconds)
    process = None
    address, rest = args.address, args.rest
    try:
        if args.spawn:
            process, address, rest = spawn(args.spawn, args.model, args.flags)
        watch = Watch(rest, args.metrics_path, process.pid if process else None)
        results += asyncio.run(measure(args, address, watch, image))
    finally:
        if process is not None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    if args.json:
        for result in results:
            print(json.dumps(result.line()))
    else:
        print_rows([result.line() for result in results])
    return 0


if __name__ == "__main__":
    sys.exit(main())
