"""What some labelled images of other writers bring: adapts the base model to them, and trains on them from nothing.

Images are drawn writer by writer, a dozen of these, one tenth of the images for validation; the CER is that of writers
of whom none was drawn: best path, with a language model of the labels, and with one that also knows the texts of the
base model, as `htr run` learns it. With 0 images the base model transcribes them as it is, best path alone. With
--unlabelled the adapted model labels others of the writers who are not evaluated, as `htr label` does, and a second
training learns from these too.

    python -m benchmarks.adaptation --data FOLDER --preset line --images 0 50 100 300 700 --seeds 1
"""

import argparse
import random
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf

from benchmarks.accuracy import FEATURES, rates, read, train, write
from benchmarks.language import rate
from components.base_model import packing
from components.example_gen.dataset import Sample
from components.example_gen.settings import DataConfig
from components.language.learning import Recorded, decoded, learn
from components.trainer import warm_start
from components.trainer.fitting import log_probs_of, read_images
from components.trainer.input_pipeline import Source, plain_batches, survey
from components.trainer.model import Recogniser, build
from components.trainer.transfer import start_from
from htr_client.beam import default_decoder
from htr_client.decoding import Alphabet, Decoded
from htr_client.language import LanguageModel
from pipeline import config as configuration
from pipeline.config import Config


def draw(samples: Sequence[Sample], count: int, seed: int) -> dict[str, list[Sample]]:
    """Images of a dozen writers, of more or all of some where these have too few, as `train` and `validation`."""
    if count > len(samples):
        raise SystemExit(f"There are {len(samples)} images to draw from, fewer than {count}.")
    by_writer = defaultdict(list)
    for sample in samples:
        by_writer[sample.writer].append(sample)
    chance = random.Random(seed)
    writers = sorted(by_writer)
    chance.shuffle(writers)
    # A folder of 300 images that people have is by a dozen writers rather than by 2 or by 200.
    most = max(count // 12, 10)
    drawn: list[Sample] = []
    for writer in writers:
        drawn += chance.sample(by_writer[writer], min(most, len(by_writer[writer]), count - len(drawn)))
    taken = {sample.id for sample in drawn}
    drawn += chance.sample([sample for sample in samples if sample.id not in taken], count - len(drawn))
    chance.shuffle(drawn)
    held = max(count // 10, 5)
    return {"train": drawn[held:], "validation": drawn[:held]}


def record(model: Recogniser, source: Source) -> list[Recorded]:
    """What a network sees in the images of a split."""
    found = []
    for batch in read_images(log_probs_of(model), plain_batches(source, 32)):
        found += [Recorded(row[:valid], text) for row, valid, text in zip(*batch, strict=True)]
    return found


class Adapted(NamedTuple):
    """What a training brought.

    Attributes:
        steps: Optimiser steps of the training.
        row: Columns of the table: CPU minutes, CER and WER, CER with language models.
        read: What it transcribes the unlabelled images as, with its last language model, in their order.
    """

    steps: int
    row: str
    read: list[Decoded]


def adapt(config: Config, splits: Mapping[str, Sequence[Sample]], unlabelled: Sequence[Sample], preset: str) -> Adapted:
    """Trains on `train`, chooses on `validation`, measures on `eval`.

    Args:
        config: Settings; their `train` is settled.
        splits: Images with their texts.
        unlabelled: Other images, whose texts are not looked at.
        preset: Preset of the base model.
    """
    # Images come back by width, with their texts: numbers, here.
    numbered = [sample._replace(text=str(number)) for number, sample in enumerate(unlabelled)]
    with tempfile.TemporaryDirectory() as folder:
        alphabet, files = write({**splits, "unlabelled": numbered}, config.transform, Path(folder))
        model, alphabet, minutes, steps = train("recipe", config, files, alphabet)
        sources = {
            split: survey(files[split], FEATURES, config.transform) for split in ("validation", "eval", "unlabelled")
        }
        row = f"{minutes:7.1f}  {rates(model, sources['eval'], alphabet)}"
        validation, seen, others = (record(model, source) for source in sources.values())
    labels = [sample.text for sample in splits["train"]]
    knowledge: list[tuple[list[str], LanguageModel | None]] = [([], None)]
    if config.train.warm_start:
        knowledge.append((packing.texts(preset), packing.language_model(preset)))
    for texts, known in knowledge:
        learnt = learn(labels, Alphabet(alphabet), validation, config.language, known, texts).model
        decoder = default_decoder(learnt)
        row += f"  {rate(decoder, Alphabet(alphabet), seen):.4f}"
    read = decoded(decoder, Alphabet(alphabet), others)
    keras.backend.clear_session()
    return Adapted(
        steps,
        row,
        [text for _, text in sorted(zip((int(other.label) for other in others), read, strict=True), key=itemgetter(0))],
    )


def as_it_is(config: Config, evaluated: Sequence[Sample]) -> str:
    """Columns of the table for the base model."""
    start = config.train.warm_start or ""
    with tempfile.TemporaryDirectory() as folder:
        _, files = write({"train": [], "eval": evaluated}, config.transform, Path(folder))
        alphabet = warm_start.alphabet_of(start)
        model = build(config.model, len(alphabet) + 1, config.transform.height or 0)
        start_from(model, alphabet, start)
        return f"{0:7.1f}  {rates(model, survey(files['eval'], FEATURES, config.transform), alphabet)}"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with CSV and images, with writers")
    parser.add_argument("--preset", default="line", choices=["word", "line"])
    parser.add_argument("--images", nargs="+", type=int, default=[0, 50, 100, 300, 700])
    parser.add_argument("--starts", nargs="+", default=["auto", "none"], help="of train.warm_start")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--evaluated", type=int, default=800, help="images of other writers")
    parser.add_argument("--unlabelled", type=int, default=0, help="images for `htr label`, none of them evaluated")
    parser.add_argument("--above", type=float, default=0.5, help="confidence from which on their texts are believed")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--threads", type=int, default=0, help="of TensorFlow within an operation; 0 lets it choose")
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    overrides = [f"transform.preset={arguments.preset}", *arguments.set]
    transform = configuration.load(overrides=overrides).transform
    samples = read(DataConfig(paths=[arguments.data], eval_fraction=0.3, split_salt="adaptation"), transform)
    others = [sample for sample in samples if sample.split == "eval"]
    evaluated = random.Random(0).sample(others, min(arguments.evaluated, len(others)))
    rest = [sample for sample in samples if sample.split != "eval"]
    lines = [
        f"{'start':8s} labelled  more  seed   steps  CPU min  CER (95 % interval)          WER     labels  and base"
    ]
    print(lines[0], flush=True)

    def tell(start: str, count: int, more: int, seed: int, steps: int, row: str) -> None:
        lines.append(f"{start:8.8s} {count:8d} {more:5d}  {seed:4d}  {steps:6d}  {row}")
        print(lines[-1], flush=True)

    for start in arguments.starts:
        for count in arguments.images:
            for seed in arguments.seeds[: 1 if count == 0 else None]:
                if count == 0 and start == "none":
                    continue
                config = configuration.load(overrides=[*overrides, f"train.warm_start={start}", f"train.seed={seed}"])
                settled, model, found = warm_start.settled(config.train, transform, config.model)
                if start != "none" and settled.warm_start is None:
                    raise SystemExit(f"There is no start: {found.name}")
                config = config.model_copy(update={"train": settled, "model": model})
                if not count:
                    tell(start, 0, 0, seed, 0, as_it_is(config, evaluated))
                    continue
                splits = {**draw(rest, count, seed), "eval": evaluated}
                drawn = {sample.id for split in splits.values() for sample in split}
                left = [sample for sample in rest if sample.id not in drawn]
                unlabelled = random.Random(seed).sample(left, min(arguments.unlabelled, len(left)))
                adapted = adapt(config, splits, unlabelled, arguments.preset)
                tell(start, count, 0, seed, adapted.steps, adapted.row)
                more = [
                    sample._replace(text=text.text)
                    for sample, text in zip(unlabelled, adapted.read, strict=True)
                    if text.confidence >= arguments.above and text.text.strip()
                ]
                if more:
                    splits["train"] = [*splits["train"], *more]
                    adapted = adapt(config, splits, [], arguments.preset)
                    tell(start, count, len(more), seed, adapted.steps, adapted.row)
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
