"""What the run report costs: seconds and memory of the component RunReport on many pictures.

Takes the artifacts of a run, repeats its evaluation pictures until there are enough, and runs the component on them
twice: with the candidate alone, and with a last blessed model to compare with (the same model again).

    python -m benchmarks.report --workspace workspace --pictures 20000
"""

import argparse
import glob
import os
import tempfile
import threading
import time
from typing import Any

import psutil
import tensorflow as tf
from tfx.types import standard_artifacts

from components.example_gen.component import Quarantine
from components.example_gen.dataset import SPLITS
from components.report import contents
from components.report.component import Executor, Report
from pipeline.config import Config


def newest(workspace: str, step: str, output: str) -> str:
    """Directory of the newest artifact of a step."""
    found = glob.glob(os.path.join(workspace, "pipeline", step, output, "*"))
    if not found:
        raise SystemExit(f"{workspace} holds no {output} of {step}: run `htr run --workspace {workspace}` first.")
    return max(found, key=lambda path: int(os.path.basename(path)))


def repeat(examples: str, folder: str, pictures: int) -> None:
    """Writes examples whose evaluation split has so many pictures, the others being as they are."""
    for split in SPLITS:
        os.makedirs(os.path.join(folder, f"Split-{split}"))
        files = glob.glob(os.path.join(examples, f"Split-{split}", "*"))
        records = list(tf.data.TFRecordDataset(files, compression_type="GZIP").as_numpy_iterator())
        path = os.path.join(folder, f"Split-{split}", "data_tfrecord-00000-of-00001.gz")
        with tf.io.TFRecordWriter(path, "GZIP") as writer:
            for i in range(pictures if split == "eval" else len(records)):
                writer.write(records[i % len(records)])


def measure(inputs: dict[str, Any], config: Config, folder: str) -> tuple[float, float, int]:
    """Runs the component once.

    Returns:
        Seconds, seconds of CPU time, and the bytes by which the resident memory of the process grew at most.
    """
    report = Report()
    report.uri = folder
    os.makedirs(folder)
    process = psutil.Process()
    before = peak = process.memory_info().rss
    stop = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.05):
            peak = max(peak, process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    begin, begin_cpu = time.monotonic(), time.process_time()
    settings = config.model_dump_json(include=set(contents.SECTIONS))
    Executor().Do(inputs, {"report": [report]}, {"config": settings})
    seconds, cpu = time.monotonic() - begin, time.process_time() - begin_cpu
    stop.set()
    thread.join()
    return seconds, cpu, peak - before


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", default="workspace")
    parser.add_argument("--pictures", type=int, default=20000, help="of the evaluation split")
    arguments = parser.parse_args()

    def artifact(kind: Any, step: str, output: str) -> list[Any]:
        made = kind()
        made.uri = newest(arguments.workspace, step, output)
        return [made]

    with tempfile.TemporaryDirectory() as folder:
        examples = standard_artifacts.Examples()
        examples.uri = os.path.join(folder, "examples")
        repeat(newest(arguments.workspace, "HandwritingExampleGen", "examples"), examples.uri, arguments.pictures)
        inputs = {
            "examples": [examples],
            "quarantine": artifact(Quarantine, "HandwritingExampleGen", "quarantine"),
            "anomalies": artifact(standard_artifacts.ExampleAnomalies, "ExampleValidator", "anomalies"),
            "model": artifact(standard_artifacts.Model, "Trainer", "model"),
            "model_run": artifact(standard_artifacts.ModelRun, "Trainer", "model_run"),
            "evaluation": artifact(standard_artifacts.ModelEvaluation, "Evaluator", "evaluation"),
        }
        inputs["anomalies"][0].split_names = "[]"
        print(f"| {arguments.pictures} evaluation pictures | seconds | CPU seconds | memory added |\n|---|---|---|---|")
        for name, more in (("one model", {}), ("two models", {"baseline_model": inputs["model"]})):
            seconds, cpu, added = measure({**inputs, **more}, Config(), os.path.join(folder, name))
            print(f"| {name} | {seconds:.1f} | {cpu:.1f} | {added / 2**20:.0f} MiB |", flush=True)


if __name__ == "__main__":
    main()
