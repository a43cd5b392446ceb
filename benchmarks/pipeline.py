"""What the pipeline costs beside the network: start-up of the commands, its data steps, whole runs.

    python -m benchmarks.pipeline --data FOLDER --model workspace/serving_model/htr

startup  CPU seconds of commands and imports, each in a fresh process, median of three.
steps    images per second of CPU time: ExampleGen against a loop that reads the files and calls `cv2.imdecode`,
         Transform's resizing against `cv2.resize` and `cv2.imencode`, in this process, median of seven.
runs     `htr run` with one epoch on copies of the given images, against a script that reads and resizes them all and
         trains a plain Keras model on as many as the run: seconds without fitting and imports, and peak memory. The
         run's fitting holds the validation of its start, too.
"""

import argparse
import csv
import glob
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from benchmarks import beam, serving
from components.report import summary
from components.transform.settings import TransformConfig
from pipeline.beam.options import pipeline_options
from pipeline.beam.settings import BeamConfig
from pipeline.exit_codes import NOT_BLESSED, OK

PARTS = ("startup", "steps", "runs")
STEPS_IMAGES = 10_000  # so many that the start of Beam, which is subtracted, is a small part
HTR = [sys.executable, "-m", "pipeline.cli"]


def cpu_seconds(command: list[str]) -> float:
    """User and system time of a command; its output is thrown away."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def startup(folder: Path, model: str) -> None:
    """Prints what commands cost before they do anything.

    Args:
        folder: Dataset of a few images.
        model: Directory of versions for the server that `htr predict` asks.
    """
    image = str(next((folder / "images").iterdir()))
    server, address, _ = serving.spawn(model, "htr", [])
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "htr --help": [*HTR, "--help"],
        f"htr check, {beam.FEW} images": [*HTR, "check", "--data", str(folder)],
        "htr predict, 1 image": [*HTR, "predict", "--server", address, image],
        "htr read, 1 image": [*HTR, "read", "--model", model, image],
        "from tfx import v1": [sys.executable, "-c", "from tfx import v1"],
        "imports of htr run": [sys.executable, "-c", "import pipeline.runners.local_runner"],
    }
    print(f"\n{'start-up':28s} CPU seconds (median of 3)")
    found = {}
    try:
        for name, command in commands.items():
            found[name] = statistics.median(cpu_seconds(command) for _ in range(3))
            print(f"{name:28s} {found[name]:8.2f}", flush=True)
    finally:
        server.terminate()
        server.wait()
    print(f"imports of htr run / from tfx import v1: {found['imports of htr run'] / found['from tfx import v1']:.2f}")


def steps(folder: Path, few: Path, images: int, scratch: Path) -> None:
    """Prints rates of the data steps beside bare loops over the same images.

    Args:
        folder: Dataset.
        few: Dataset of `beam.FEW` images, whose time is start-up.
        images: Number of images in `folder`.
        scratch: Folder for what the steps write.
    """
    import tensorflow as tf

    from components.transform.preprocessing import resize_images

    tf.config.threading.set_intra_op_parallelism_threads(1)  # of this process alone: runs and scripts take all cores
    with open(folder / "labels.csv", encoding="utf-8", newline="") as file:
        paths = [folder / row["filename"] for row in csv.DictReader(file)]
    transform = TransformConfig()
    resize = tf.function(lambda encoded: resize_images(encoded, transform), reduce_retracing=True)
    size = (transform.width or 0, transform.height or 0)

    def decode(path: Path) -> np.ndarray:
        return cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)

    def decode_all() -> None:
        for path in paths:  # a list of them all would cost memory, and time for it
            decode(path)

    def resize_plainly() -> None:
        for path in paths:
            cv2.imencode(".png", cv2.resize(decode(path), size))

    def generate(data: Path) -> None:
        with tempfile.TemporaryDirectory(dir=scratch) as name:
            beam.example_gen(data, Path(name), pipeline_options(BeamConfig()))

    def resize_all() -> None:
        for start in range(0, len(paths), 64):
            resize(tf.constant([path.read_bytes() for path in paths[start : start + 64]]))

    def cost(work: Callable[[], object]) -> float:
        begin = time.process_time()
        work()
        return time.process_time() - begin

    parts: dict[str, Callable[[], float]] = {
        "cv2.imdecode": lambda: cost(decode_all),
        "ExampleGen": lambda: cost(lambda: generate(folder)) - cost(lambda: generate(few)),
        "cv2.imdecode, resize, imencode": lambda: cost(resize_plainly),
        "Transform": lambda: cost(resize_all),
    }
    for part in parts.values():
        part()
    print(f"\n{'step':32s} images per CPU second (median of 7)")
    rates = {name: statistics.median(images / part() for _ in range(7)) for name, part in parts.items()}
    for name, rate in rates.items():
        print(f"{name:32s} {rate:10.0f}")
    print(f"ExampleGen / cv2.imdecode: {rates['ExampleGen'] / rates['cv2.imdecode']:.2f}")
    print(f"Transform / cv2: {rates['Transform'] / rates['cv2.imdecode, resize, imencode']:.2f}")


def runs(folders: dict[int, Path], scratch: Path) -> None:
    """Prints what whole runs cost on datasets of several sizes.

    Args:
        folders: Dataset by number of images.
        scratch: Folder for the workspaces.
    """
    print(
        f"\n{'images':>8s} {'trained on':>10s}  {'run: steps s':>12s} {'fitting s':>10s} {'other s':>8s}"
        f" {'peak MB':>8s}  {'script: read s':>14s} {'fitting s':>10s} {'peak MB':>8s}"
    )
    for images, folder in folders.items():
        workspace = scratch / f"workspace{images}"
        command = [*HTR, "run", "--data", str(folder), "--workspace", str(workspace), "--set", "train.epochs=1",
                   "--set", "gate.max_cer=null", "--set", "gate.max_cer_increase=null"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode not in (OK, NOT_BLESSED):  # where no epoch is better than the base, all steps ran
            raise SystemExit(done.stderr)
        run = summary.read(str(workspace), "htr")
        (history,) = glob.glob(str(workspace / "pipeline" / "Trainer" / "model_run" / "*" / "history.json"))
        fitting = json.loads(Path(history).read_text())[-1]["seconds"]
        peak = max(step.peak_bytes or 0 for step in run.steps)
        trained = run.counts["accepted"]["train"]
        script = [sys.executable, "-m", "benchmarks.plain", str(folder), str(trained)]
        bare = json.loads(subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        print(
            f"{images:8d} {trained:10d}  {run.seconds:12.1f} {fitting:10.1f} {run.seconds - fitting:8.1f}"
            f" {peak / 1e6:8.0f}  {bare['read']:14.1f} {bare['fitting']:10.1f} {bare['peak'] / 1e6:8.0f}", flush=True,
        )  # fmt: skip
        slow = (
            f"{step.name} {step.seconds:.1f} s (CPU {step.cpu_seconds or 0:.1f})"
            for step in run.steps
            if step.seconds and step.seconds >= 1
        )
        print(f"          {', '.join(slow)}", flush=True)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="FOLDER", help="a dataset, such as htr sample-data makes")
    parser.add_argument("--model", metavar="DIR", help="directory of pushed versions (startup)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 5000, 50000], metavar="N", help="of the runs")
    arguments = parser.parse_args()
    if "startup" in arguments.parts and not arguments.model:
        parser.error("startup needs --model")
    samples = beam.read(arguments.data)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        few = beam.grow(samples, beam.FEW, scratch / "few")
        if "startup" in arguments.parts:
            startup(few, arguments.model)
        if "steps" in arguments.parts:
            steps(beam.grow(samples, STEPS_IMAGES, scratch / "steps"), few, STEPS_IMAGES, scratch)
        if "runs" in arguments.parts:
            runs({count: beam.grow(samples, count, scratch / str(count)) for count in arguments.images}, scratch)


if __name__ == "__main__":
    main()
