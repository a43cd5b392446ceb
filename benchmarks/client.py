"""How much of a server's speed this client reaches: images per second with and without the client's own work.

Drives a running server twice in the same way (same batches, same requests in flight): once with requests built
beforehand and answers thrown away, once with HtrClient.transcribe_many from files to text. Rounds alternate, so that
a machine that gets slower or faster meanwhile treats both alike.

    python -m benchmarks.client --server localhost:8500 --images FOLDER
"""

import argparse
import atexit
import contextlib
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from benchmarks.serving import spawn
from htr_client import HtrClient, messages
from htr_client.errors import ImageError
from htr_client.image_files import pack
from htr_client.network.addresses import grpc_target
from htr_client.network.connection import channel_options


def bare(target: str, model: str, images: list[bytes], batch_size: int, in_flight: int) -> Callable[[], None]:
    """The server's own speed: requests built beforehand, answers not even parsed.

    Args:
        target: gRPC target.
        model: Name of the served model.
        images: Encoded images.
        batch_size: Images a request.
        in_flight: Requests at a time.

    Returns:
        A function that sends all of them once.
    """
    channel = grpc.insecure_channel(target, channel_options(256 * 2**20))
    call = channel.unary_unary(messages.PREDICT)
    requests = [
        messages.predict_request(
            model, None, None, "serving_default", {"image_bytes": images[i : i + batch_size]}
        ).SerializeToString()
        for i in range(0, len(images), batch_size)
    ]

    def send() -> None:
        with ThreadPoolExecutor(in_flight) as pool:
            for _ in pool.map(lambda request: call(request, timeout=60), requests):
                pass

    return send


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="localhost:8500")
    parser.add_argument("--spawn", metavar="DIR", help="start an embedded server on these versions instead")
    parser.add_argument("--model", default="htr")
    parser.add_argument("--images", required=True, help="folder of PNG and JPEG files")
    parser.add_argument("--count", type=int, default=2000, help="images a round; the files are repeated as needed")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--in-flight", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.spawn:
        process, args.server, _ = spawn(args.spawn, args.model, [])
        atexit.register(process.terminate)
    suffixes = {".png", ".jpg", ".jpeg"}
    files = sorted(path for path in Path(args.images).rglob("*") if path.suffix.lower() in suffixes)[: args.count]
    encoded = {}
    for path in files:
        with contextlib.suppress(ImageError):
            encoded[path] = pack(path).data
    if not encoded:
        parser.error(f"no PNG or JPEG image in {args.images!r}")
    print(f"{len(encoded)} images, {len(files) - len(encoded)} damaged ones left out")
    paths = (list(encoded) * (args.count // len(encoded) + 1))[: args.count]
    print("| batch | in flight | bare images/s | client images/s | share | client CPU ms/image |")
    print("|---|---|---|---|---|---|")
    for size in args.batch_size:
        send = bare(grpc_target(args.server), args.model, [encoded[path] for path in paths], size, args.in_flight)
        with HtrClient(args.server, args.model, batch_size=size, in_flight=args.in_flight, timeout=60) as client:
            list(client.transcribe_many(paths[: 4 * size]))
            send()
            speeds: tuple[list[float], list[float]] = ([], [])
            cpu = []
            for _ in range(args.rounds):
                started = time.perf_counter()
                send()
                speeds[0].append(len(paths) / (time.perf_counter() - started))
                started, spent = time.perf_counter(), time.process_time()
                failed = sum(not result.ok for result in client.transcribe_many(paths))
                speeds[1].append(len(paths) / (time.perf_counter() - started))
                cpu.append((time.process_time() - spent) / len(paths) * 1000)
                if failed:
                    print(f"{failed} images failed")
        server, whole = (statistics.median(values) for values in speeds)
        print(
            f"| {size} | {args.in_flight} | {server:.0f} | {whole:.0f} | {whole / server:.0%} "
            f"| {statistics.median(cpu):.2f} |"
        )


if __name__ == "__main__":
    main()
