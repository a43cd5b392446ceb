"""Which weights of a training to keep: those of the best validation CER, or an average of the last epochs.

Trains once, with some writers held back, and notes after each epoch how the averaged weights transcribe every held-back
image. Then draws validation writers from the held-back ones again and again, lets each way choose by them, and says
what the chosen weights come to on the other writers, best path: the mean CER of all draws, and the mean difference to
the first way with the share of draws in which it was better and worse.

    python -m benchmarks.selection --data FOLDER --preset word --salts a b c
"""

import argparse
import functools
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.accuracy import FEATURES, read, write
from components.example_gen.settings import DataConfig
from components.trainer import warm_start
from components.trainer.fitting import Fitting
from components.trainer.input_pipeline import Source, survey
from components.trainer.model import build
from components.trainer.outcome import Validation
from components.trainer.transfer import start_from
from pipeline import config as configuration
from pipeline.config import Config

# Images by a writer, as [N, 2] of edits and reference length.
Errors = dict[str, np.ndarray]
DRAWS = 500


@dataclass
class Watch:
    """What a training was like at the end of each epoch, the base of a warm start first."""

    writers: dict[str, Source]
    errors: list[Errors] = field(default_factory=list)
    weights: list[list[np.ndarray]] = field(default_factory=list)


class Watched(Fitting):
    """A training that notes the errors of each held-back image and the weights of each epoch, and never stops early."""

    watch: Watch

    def validate(self) -> Validation:
        """Reads the images of all held-back writers."""
        found = {writer: self.read(source) for writer, source in self.watch.writers.items()}
        self.watch.errors.append(found)
        self.watch.weights.append(self.weights.current())
        return validation_of(found, sorted(found))

    def read(self, source: Source) -> np.ndarray:
        """Edits and reference length of each image, int [N, 2], with the weights that the network has now."""
        self.validation = source
        return np.array(super().validate().images)

    def read_with_mean_of(self, epochs: Sequence[int]) -> Errors:
        """Errors with the mean of the weights of some epochs."""
        chosen = [self.watch.weights[epoch] for epoch in epochs]
        self.weights.assign([np.mean(values, axis=0) for values in zip(*chosen, strict=True)])
        return {writer: self.read(source) for writer, source in self.watch.writers.items()}


def trained(config: Config, files: dict[str, list[str]], alphabet: Sequence[str]) -> Watched:
    """A training from first to last epoch."""
    keras.utils.set_random_seed(config.train.seed)
    given = (FEATURES, config.transform, config.train.batch_size)
    sources = {name: survey(paths, *given) for name, paths in files.items()}
    model = build(config.model, len(alphabet) + 1, config.transform.height or 0)
    if config.train.is_warm:
        start_from(model, alphabet, config.train.warm_start or "")
    held = {name: source for name, source in sources.items() if name != "train"}
    # What is put into the weights after the last epoch would be validated, too, and count as one more epoch.
    train = config.train.model_copy(update={"patience": 10_000, "start_share": 0.0})
    fitting = Watched(model, sources["train"], next(iter(held.values())), alphabet, train)
    fitting.watch = Watch(held)
    fitting.run()
    return fitting


def validation_of(errors: Errors, writers: Sequence[str]) -> Validation:
    """Validation on all images by some writers."""
    rows = np.concatenate([errors[writer] for writer in writers]).tolist()
    return Validation([(edits, length) for edits, length in rows], 0, 0)


def rate(errors: Errors, writers: Sequence[str]) -> float:
    """CER of all images by some writers."""
    return validation_of(errors, writers).rate


def part(errors: Errors, writers: Sequence[str], share: float, draw: random.Random) -> list[np.ndarray]:
    """Rows of a share of each writer's images."""
    return [np.array(draw.sample(range(n := len(errors[w])), max(1, round(share * n)))) for w in writers]


def compare(fitting: Watched, validation_writers: int, seed: int) -> dict[str, list[float]]:
    """CER on the other writers of what each way chooses, by draw of the validation writers.

    Args:
        fitting: Training that has ended.
        validation_writers: How many writers choose in the first way; twice as many, with half of their images, in the
            second one.
        seed: Seed of the draws.

    Returns:
        A list for each way, all in the same order of draws.
    """
    epochs = fitting.watch.errors
    last = len(epochs) - 1
    ways = [1, 3, max(4, last // 4)]
    tails = {n: fitting.read_with_mean_of(range(last - n + 1, last + 1)) for n in ways if n <= last}
    means = {
        epoch: fitting.read_with_mean_of(range(max(0, epoch - 1), min(last, epoch + 1) + 1))
        for epoch in range(last // 2, last + 1)
    }

    @functools.cache
    def kept(*few: str) -> int:
        validations = [validation_of(errors, few) for errors in epochs]
        lowest = found = 0
        for epoch, validation in enumerate(validations):
            if validation.rate < validations[lowest].rate:
                lowest = found = epoch
            elif fitting.train.is_warm and validation.rate >= validations[0].rate:
                continue  # no better than the base
            elif not validation.is_clearly_worse(validations[lowest].images):
                found = epoch
        return found

    draw, writers = random.Random(seed), sorted(fitting.watch.writers)
    found: dict[str, list[float]] = {}
    for _ in range(DRAWS):
        drawn = draw.sample(writers, len(writers))
        few, more, others = drawn[:validation_writers], drawn[: 2 * validation_writers], drawn[2 * validation_writers :]
        best = min(range(len(epochs)), key=lambda e: rate(epochs[e], few))
        rows = part(epochs[0], more, 0.5, draw)
        halves = [
            np.concatenate([errors[w][r] for w, r in zip(more, rows, strict=True)]).sum(axis=0) for errors in epochs
        ]
        best_of_more = min(range(len(epochs)), key=lambda e: halves[e][0] / halves[e][1])
        results: dict[str, Any] = {
            f"best epoch by {validation_writers} writers": epochs[best],
            f"last epoch not clearly worse by {validation_writers} writers": epochs[kept(*sorted(few))],
            f"best epoch by {2 * validation_writers} writers, half of their images": epochs[best_of_more],
            **{f"mean of the last {n} epochs" if n > 1 else "last epoch": errors for n, errors in tails.items()},
        }
        if best in means:
            results["mean of the best epoch and its neighbours"] = means[best]
        for way, errors in results.items():
            found.setdefault(way, []).append(rate(errors, others))
    return found


def table(found: dict[str, list[float]]) -> str:
    """Means of all draws, and differences to the first way."""
    first = np.array(next(iter(found.values())))
    lines = [f"{'way':58s} {'CER':>7s} {'difference':>10s}  better  worse"]
    for way, values in found.items():
        if len(values) < len(first):
            continue
        difference = np.array(values) - first
        lines.append(
            f"{way:58s} {np.mean(values):7.4f} {difference.mean():+10.4f}  {np.mean(difference < 0):6.0%} "
            f"{np.mean(difference > 0):6.0%}"
        )
    return "\n".join(lines)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with CSV and images, with writers")
    parser.add_argument("--preset", default="word", choices=["word", "line"])
    parser.add_argument("--salts", nargs="+", default=["a"], help="each draws other writers to hold back")
    parser.add_argument("--held", type=float, default=0.33, help="share of the images that are held back")
    parser.add_argument("--validation-writers", type=int, default=2)
    parser.add_argument("--start", default="none", help="train.warm_start")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--threads", type=int, default=0, help="of TensorFlow within an operation; 0 lets it choose")
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    overrides = [f"transform.preset={arguments.preset}", f"train.warm_start={arguments.start}", *arguments.set]
    config = configuration.load(overrides=overrides)
    settled, model, start = warm_start.settled(config.train, config.transform, config.model)
    config = config.model_copy(update={"train": settled, "model": model})
    for number, salt in enumerate(arguments.salts):
        data = DataConfig(paths=[arguments.data], split_salt=salt, eval_fraction=arguments.held)
        samples = read(data, config.transform)
        splits: dict[str, list[Any]] = {"train": [s for s in samples if s.split == "train"]}
        for sample in samples:
            if sample.split != "train":
                splits.setdefault(sample.writer, []).append(sample)
        with tempfile.TemporaryDirectory() as folder:
            alphabet, files = write(splits, config.transform, Path(folder))
            fitting = trained(config, files, alphabet)
            curve = [rate(errors, sorted(errors)) for errors in fitting.watch.errors]
            print(f"\nsalt {salt}, from {start.name}, {len(splits) - 1} writers held back; CER by epoch: "
                  + " ".join(f"{value:.4f}" for value in curve))  # fmt: skip
            print(table(compare(fitting, arguments.validation_writers, number)), flush=True)
        keras.backend.clear_session()


if __name__ == "__main__":
    main()
