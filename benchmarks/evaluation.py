"""What evaluating a model costs: seconds of Evaluator and RunReport on many images, beside a plain loop.

Takes the artifacts of a run, repeats its evaluation images until there are enough, and runs each component on them
twice: with the candidate alone, and with a model in service to compare with (the same model again). The plain loop
reads the same images with one model, in batches, and counts edits.

    python -m benchmarks.evaluation --workspace workspace --images 20000
"""

import argparse
import glob
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import path_utils, proto_utils

from components.common.artifacts import Report
from components.common.metrics import ErrorCounts
from components.evaluator import bounds
from components.evaluator.component import EvaluatorExecutor
from components.evaluator.settings import GateConfig
from components.evaluator.tfma_verdict import read_verdict
from components.example_gen.examples import records
from components.example_gen.quarantine import Quarantine
from components.example_gen.splits import SPLITS
from components.recogniser.model import ExportedModel
from components.report.component import Executor
from components.report.settings import RunSettings
from pipeline.beam.options import pipeline_options
from pipeline.beam.settings import BeamConfig

BATCH = 64


def newest(workspace: str, step: str, output: str) -> str:
    """Directory of the newest artifact of a step."""
    found = glob.glob(os.path.join(workspace, "pipeline", step, output, "*"))
    if not found:
        raise SystemExit(f"{workspace} holds no {output} of {step}: run `htr run --workspace {workspace}` first.")
    return max(found, key=lambda path: int(os.path.basename(path)))


def repeat(examples: str, folder: str, images: int) -> None:
    """Writes examples whose evaluation split has so many images, the others being as they are."""
    for split in SPLITS:
        os.makedirs(os.path.join(folder, f"Split-{split}"))
        files = glob.glob(os.path.join(examples, f"Split-{split}", "*"))
        serialized = list(tf.data.TFRecordDataset(files, compression_type="GZIP").as_numpy_iterator())
        path = os.path.join(folder, f"Split-{split}", "data_tfrecord-00000-of-00001.gz")
        with tf.io.TFRecordWriter(path, "GZIP") as writer:
            for i in range(images if split == "eval" else len(serialized)):
                writer.write(serialized[i % len(serialized)])


def read_plainly(examples: str, model: str) -> float:
    """Reads the evaluation split with a SavedModel.

    Returns:
        CER.
    """
    loaded = ExportedModel(model)
    counts = ErrorCounts()
    stream = records(examples, "eval")
    while batch := list(itertools.islice(stream, BATCH)):
        log_probs, frames = loaded.log_probs([record["image"] for record in batch])
        for record, result in zip(batch, loaded.decoder().decode(log_probs, frames, loaded.alphabet), strict=True):
            counts.add(record["text"], result.text)
    return counts.rate


def evaluate(inputs: dict[str, Any], folder: str) -> float:
    """Runs the Evaluator once.

    Returns:
        CER.
    """
    evaluation, blessing = standard_artifacts.ModelEvaluation(), standard_artifacts.ModelBlessing()
    evaluation.uri, blessing.uri = os.path.join(folder, "evaluation"), os.path.join(folder, "blessing")
    blessing.id = 1
    context = EvaluatorExecutor.Context(
        beam_pipeline_args=pipeline_options(BeamConfig()), tmp_dir=os.path.join(folder, "tmp"), unique_id="1"
    )
    given: dict[str, Any] = {name: inputs[name] for name in ("examples", "model", "baseline_model") if name in inputs}
    properties = {
        "eval_config": proto_utils.proto_to_json(bounds.eval_config(GateConfig())),
        "example_splits": '["eval"]',
        "current_component_id": "Evaluator",
    }
    EvaluatorExecutor(context).Do(given, {"evaluation": [evaluation], "blessing": [blessing]}, properties)
    return read_verdict(evaluation.uri).metrics["cer"]


def report(inputs: dict[str, Any], folder: str, evaluated: str) -> None:
    """Runs RunReport once, on what `evaluate` has left in `evaluated`."""
    evaluation = standard_artifacts.ModelEvaluation()
    evaluation.uri = os.path.join(evaluated, "evaluation")
    made = Report()
    made.uri = folder
    os.makedirs(folder)
    settings = RunSettings().model_dump_json()
    Executor().Do({**inputs, "evaluation": [evaluation]}, {"report": [made]}, {"config": settings})


def measure(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Calls something, and returns seconds, seconds of CPU time, and what it returned."""
    begin, begin_cpu = time.monotonic(), time.process_time()
    result = work()
    return time.monotonic() - begin, time.process_time() - begin_cpu, result


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", default="workspace")
    parser.add_argument("--images", type=int, default=20000, help="of the evaluation split")
    arguments = parser.parse_args()

    def artifact(kind: Any, step: str, output: str) -> list[Any]:
        made = kind()
        made.uri = newest(arguments.workspace, step, output)
        return [made]

    with tempfile.TemporaryDirectory() as folder:
        examples = standard_artifacts.Examples()
        examples.uri = os.path.join(folder, "examples")
        examples.split_names = artifact_utils.encode_split_names(list(SPLITS))
        repeat(newest(arguments.workspace, "HandwritingExampleGen", "examples"), examples.uri, arguments.images)
        inputs = {
            "examples": [examples],
            "quarantine": artifact(Quarantine, "HandwritingExampleGen", "quarantine"),
            "anomalies": artifact(standard_artifacts.ExampleAnomalies, "ExampleValidator", "anomalies"),
            "model": artifact(standard_artifacts.Model, "LanguageModel", "model"),
            "model_run": artifact(standard_artifacts.ModelRun, "Trainer", "model_run"),
        }
        inputs["anomalies"][0].split_names = "[]"
        two = {**inputs, "baseline_model": inputs["model"]}
        served = path_utils.serving_model_path(inputs["model"][0].uri)
        one_folder, two_folder = os.path.join(folder, "1"), os.path.join(folder, "2")
        works: dict[str, Callable[[], Any]] = {
            "plain loop": lambda: read_plainly(examples.uri, served),
            "Evaluator, one model": lambda: evaluate(inputs, one_folder),
            "Evaluator, two models": lambda: evaluate(two, two_folder),
            "RunReport, one model": lambda: report(inputs, os.path.join(folder, "3"), one_folder),
            "RunReport, two models": lambda: report(two, os.path.join(folder, "4"), two_folder),
        }
        print(f"| {arguments.images} evaluation images | seconds | CPU seconds | CPU ratio |")
        print("|---|---|---|---|")
        plain, rates = 0.0, set()
        for name, work in works.items():
            seconds, cpu, rate = measure(work)
            plain = plain or cpu
            rates |= {rate} - {None}
            print(f"| {name} | {seconds:.1f} | {cpu:.1f} | {cpu / plain:.2f} |", flush=True)
        if len(rates) > 1:
            raise SystemExit(f"plain loop and Evaluator disagree about the CER: {sorted(rates)}")


if __name__ == "__main__":
    main()
