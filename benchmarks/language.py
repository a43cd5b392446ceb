"""What language models bring to a run's model: by n-grams, weight and search.

Takes examples, model and settings of a run, and learns from what the run has learnt from: training labels, texts of the
base, other texts. The weight is the one that the step LanguageModel chooses on the validation split, CER and
calibration are those of the evaluation split. Time is CPU time of decoding alone, in batches of 32.

    python -m benchmarks.language --workspace workspace
"""

import argparse
import glob
import json
import os
import time
from collections.abc import Sequence

import numpy as np
from tfx.utils import path_utils

from components.common import storage
from components.common.metrics import count_errors
from components.example_gen.examples import records
from components.language import texts
from components.language.component import learn_for
from components.language.learning import BONUS_BY_WEIGHT, WEIGHTS, Recorded, decoded
from components.language.recording import record
from components.language.settings import LanguageConfig
from components.recogniser.model import ExportedModel
from htr_client.beam import PrefixBeamSearch, default_decoder
from htr_client.decoding import Alphabet, BestPath, Decoder


def newest(workspace: str, step: str, output: str) -> str:
    """Directory of the newest artifact of a step."""
    found = glob.glob(os.path.join(workspace, "pipeline", step, output, "*"))
    if not found:
        raise SystemExit(f"{workspace} holds no {output} of {step}: run `htr run --workspace {workspace}` first.")
    return max(found, key=lambda path: int(os.path.basename(path)))


def calibration_error(confidences: Sequence[float], right: Sequence[bool], bins: int = 10) -> float:
    """Expected calibration error over bins of equally many images."""
    sure, hits = np.array(confidences), np.array(right)
    parts = np.array_split(np.argsort(sure, kind="stable"), bins)
    return float(sum(abs(sure[part].mean() - hits[part].mean()) * len(part) for part in parts) / len(sure))


def row(name: str, decoder: Decoder, alphabet: Alphabet, images: Sequence[Recorded]) -> str:
    """One row of a table: CER, share of right texts, calibration error, milliseconds an image."""
    decoded(decoder, alphabet, images[:1])  # builds the tables
    begin = time.process_time()
    results = decoded(decoder, alphabet, images)
    milliseconds = 1000 * (time.process_time() - begin) / len(images)
    right = [result.text == image.label for result, image in zip(results, images, strict=True)]
    cer = count_errors([image.label for image in images], [result.text for result in results]).rate
    error = calibration_error([result.confidence for result in results], right)
    return f"| {name} | {cer:.4f} | {np.mean(right):.3f} | {error:.3f} | {milliseconds:.2f} |"


def rate(decoder: Decoder, alphabet: Alphabet, images: Sequence[Recorded]) -> float:
    """CER of a decoder."""
    results = decoded(decoder, alphabet, images)
    return count_errors([image.label for image in images], [result.text for result in results]).rate


def main() -> None:
    """Measures and prints tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", default="workspace")
    arguments = parser.parse_args()
    examples = newest(arguments.workspace, "HandwritingExampleGen", "examples")
    model = ExportedModel(path_utils.serving_model_path(newest(arguments.workspace, "Trainer", "model")))
    told = json.loads(storage.read(os.path.join(newest(arguments.workspace, "RunReport", "report"), "metrics.json")))
    config = LanguageConfig.model_validate(told["config"]["language"])
    labels = list(texts.labels(records(examples, "train")))
    validation, images = (record(model, examples, split) for split in ("validation", "eval"))
    print(f"{len(labels)} training labels, {len(validation)} validation images, {len(images)} evaluation images\n")

    print("| order | fewest labels | n-grams | kB | weight | validation CER | CER |\n|---|---|---|---|---|---|---|")
    for order in (3, 4, 5, 6):
        for least in (1, 2, 3):
            changed = config.model_copy(update={"order": order, "least_labels": least})
            learnt, facts = learn_for(model, labels, validation, changed)
            cer = rate(default_decoder(learnt), model.alphabet, images)
            kilobytes = f"{facts['bytes'] / 1000:.0f} | {facts['weight']:g} | {facts['validation_cer']:.4f}"
            print(f"| {order} | {least} | {facts['ngrams']} | {kilobytes} | {cer:.4f} |", flush=True)

    learnt, _ = learn_for(model, labels, validation, config)
    if learnt is None:
        raise SystemExit("No language model helps this model by more than chance.")
    decoders: dict[str, Decoder] = {"best path": BestPath(), "the run's": default_decoder(learnt)}
    for weight in WEIGHTS:
        for ratio in (1.5, BONUS_BY_WEIGHT, 5.0):
            weighed = learnt.weighed(weight, ratio * weight, learnt.temperature)
            decoders[f"weight {weight:g}, bonus {ratio:g} x weight"] = default_decoder(weighed)
    for width in (4, 8, 16):
        for pruning in (4.0, 6.0, 8.0):
            search = PrefixBeamSearch(width, pruning=pruning, language_model=learnt)
            decoders[f"width {width}, pruning {pruning:g}"] = search
    print("\n| decoder | CER | exactly right | calibration error | ms |\n|---|---|---|---|---|")
    for name, decoder in decoders.items():
        print(row(name, decoder, model.alphabet, images), flush=True)


if __name__ == "__main__":
    main()
