"""Accuracy against CPU time: trains recipes on labelled folders and reads the images of writers not in training.

Every variant is the default recipe for random weights with some settings changed, so that the table is the ablation
behind the defaults, from random weights unless a version is named with `--set train.warm_start=DIR`; the settings of
`data` have no effect.
Splits are by writer, drawn with a salt of their own. Transform's own functions resize the images, Trainer's own loop
trains; what a run adds around that is measured elsewhere.

    python -m benchmarks.accuracy --data FOLDER --preset line --epochs 12 --variants recipe no-shortcut --seeds 1 2
"""

import argparse
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf

from benchmarks.plain import ConcatenatedColumns
from components.common.metrics import ErrorCounts
from components.example_gen import dataset
from components.example_gen.rejects import Reject
from components.example_gen.settings import DataConfig
from components.trainer.accelerators import use_accelerators, use_float32
from components.trainer.fitting import Fitting, log_probs_of, read_images
from components.trainer.input_pipeline import Source, plain_batches, survey
from components.trainer.keeping import Kept, with_characters_of
from components.trainer.model import Recogniser, build
from components.trainer.settings import TrainConfig
from components.trainer.transfer import start_from
from components.transform.preprocessing import resize_images
from components.transform.settings import TransformConfig
from htr_client.decoding import Alphabet, BestPath
from pipeline import config as configuration
from pipeline.config import Config

KINDS = TrainConfig().augmentations
VARIANTS: dict[str, list[str]] = {
    "recipe": [],
    "no-shortcut": ["train.shortcut=0"],
    "no-average": ["train.average_epochs=0"],
    "no-augment": ["train.augment=0"],
    "augment-1.0": ["train.augment=1.0"],
    **{f"only-{kind}": [f"train.augmentations=[{kind}]"] for kind in KINDS},
    **{f"no-{kind}": [f"train.augmentations=[{','.join(k for k in KINDS if k != kind)}]"] for kind in KINDS},
    "neighbours": [f"train.augmentations=[{','.join([*KINDS, 'neighbours'])}]"],
    "one-lstm": ["model.recurrent_layers=1"],
    "three-lstm": ["model.recurrent_layers=3"],
    "lstm-256": ["model.recurrent_units=256"],
    "narrow": ["model.filters=[16,32,64,96,128]"],
    "shallow": ["model.filters=[24,48,96,192]"],
    "batch-32": ["train.batch_size=32"],
    "rate-0.001": ["train.learning_rate=0.001"],
    "rate-0.004": ["train.learning_rate=0.004"],
    "dropout-0.4": ["model.dropout=0.4"],
    "concatenate": [],
}
FEATURES = {
    "image_png": tf.io.FixedLenFeature([], tf.string),
    "labels": tf.io.VarLenFeature(tf.int64),
    **{name: tf.io.FixedLenFeature([], tf.string) for name in ("text", "id", "source")},
}


def prepare(data: DataConfig, transform: TransformConfig, folder: Path) -> tuple[list[str], dict[str, list[str]]]:
    """Reads datasets as ExampleGen does and resizes them as Transform does.

    Args:
        data: Folders and the salt of the splits.
        transform: Geometry.
        folder: Folder to which one TFRecord file a split is written, and for each source one of its evaluation split.

    Returns:
        The alphabet of the training split, and the files by split (`train`, `validation`, `eval`, `eval SOURCE`).
    """
    splits: dict[str, list[dataset.Sample]] = defaultdict(list)
    for sample in read(data, transform):
        splits[sample.split].append(sample)
        if sample.split == "eval":
            splits[f"eval {sample.source}"].append(sample)
    return write(splits, transform, folder)


def read(data: DataConfig, transform: TransformConfig) -> list[dataset.Sample]:
    """The images that ExampleGen would take."""
    rows = list(dataset.examine_all(data, transform))
    samples = [row for row in rows if isinstance(row, dataset.Sample)]
    print(f"{len(samples)} images, rejected: {dict(Counter(r.reason for r in rows if isinstance(r, Reject)))}")
    return samples


def write(
    splits: Mapping[str, Sequence[dataset.Sample]], transform: TransformConfig, folder: Path
) -> tuple[list[str], dict[str, list[str]]]:
    """Writes splits as `prepare` does, with the alphabet of `train`."""
    alphabet = sorted({character for s in splits["train"] for character in s.text})
    classes = {character: i for i, character in enumerate(alphabet)}
    resize = tf.function(lambda encoded: resize_images(encoded, transform), reduce_retracing=True)
    for split, members in splits.items():
        print(f"  {split:24s} {len(members):6d} images, {len({s.writer for s in members}):4d} writers")
        with tf.io.TFRecordWriter(str(folder / f"{split}.gz"), "GZIP") as writer:
            for start in range(0, len(members), 64):
                part = members[start : start + 64]
                for sample, png in zip(part, resize(tf.constant([s.image for s in part])).numpy(), strict=True):
                    writer.write(_example(sample, png, [classes[c] for c in sample.text if c in classes]))
    return alphabet, {split: [str(folder / f"{split}.gz")] for split in splits}


def _example(sample: dataset.Sample, png: bytes, labels: Sequence[int]) -> bytes:
    features = {"labels": tf.train.Feature(int64_list=tf.train.Int64List(value=labels))}
    for name, value in (("image_png", png), ("text", sample.text), ("id", sample.id), ("source", sample.source)):
        encoded = value if isinstance(value, bytes) else value.encode()
        features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded]))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def rates(model: Recogniser, source: Source, alphabet: Sequence[str]) -> str:
    """CER with its 95 % interval and WER of a network on a split, best path, as columns of a table."""
    characters, words = ErrorCounts(), ErrorCounts()
    for log_probs, frames, labels in read_images(log_probs_of(model), plain_batches(source, 32)):
        for text, result in zip(labels, BestPath().decode(log_probs, frames, Alphabet(alphabet)), strict=True):
            characters.add(text, result.text)
            words.add(text, result.text, "word")
    low, high = characters.interval(0.95)
    return f"{characters.rate:.4f} ({low:.4f} to {high:.4f})  {words.rate:.4f}"


class Trained(NamedTuple):
    """A trained network, its characters, the CPU minutes (user and system) and the optimiser steps that it took."""

    model: Recogniser
    alphabet: list[str]
    minutes: float
    steps: int


def train(variant: str, config: Config, files: dict[str, list[str]], alphabet: Sequence[str]) -> Trained:
    """Trains one variant."""
    keras.utils.set_random_seed(config.train.seed)
    given = (FEATURES, config.transform, config.train.batch_size)
    sources = {split: survey(files[split], *given) for split in ("train", "validation")}
    kind = ConcatenatedColumns if variant == "concatenate" else Recogniser
    model = build(config.model, len(alphabet) + 1, config.transform.height or 0, kind)
    new = start_from(model, alphabet, config.train.warm_start or "").new if config.train.is_warm else ()
    begin = time.process_time()
    use_accelerators(config.train)
    fitting = Fitting(model, sources["train"], sources["validation"], alphabet, config.train, new=new)
    fitting.run()
    use_float32()
    kept = Kept(model, list(alphabet), fitting.log_probs)
    if config.train.is_warm and config.train.keep_characters:
        kept = with_characters_of(
            config.train.warm_start or "", kept, config.model, sources["train"], sources["validation"]
        )
    return Trained(kept.model, kept.alphabet, (time.process_time() - begin) / 60, fitting.done)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", required=True, help="folder with CSV and images; may be repeated")
    parser.add_argument("--preset", default="line", choices=["word", "line"])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--variants", nargs="+", default=["recipe"], choices=list(VARIANTS), metavar="VARIANT",
                        help=f"any of {', '.join(VARIANTS)}")  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for all variants")
    parser.add_argument("--threads", type=int, default=0, help="of TensorFlow within an operation; 0 lets it choose")
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    base = [f"transform.preset={arguments.preset}", f"train.epochs={arguments.epochs}", "train.warm_start=none",
            *arguments.set]  # fmt: skip
    data = DataConfig(paths=arguments.data, split_salt="benchmark")
    transform = configuration.load(overrides=base).transform
    with tempfile.TemporaryDirectory() as folder:
        alphabet, files = prepare(data, transform, Path(folder))
        evaluated = [split for split in files if split.startswith("eval ")]
        lines = [f"{'variant':14s} seed  CPU min  {'set':16s}  CER (95 % interval)          WER"]
        print(lines[0], flush=True)
        for variant in arguments.variants:
            for seed in arguments.seeds:
                config = configuration.load(overrides=[*base, *VARIANTS[variant], f"train.seed={seed}"])
                model, written, minutes, _ = train(variant, config, files, alphabet)
                for split in evaluated:
                    measured = rates(model, survey(files[split], FEATURES, transform), written)
                    name = split.removeprefix("eval ")
                    lines.append(f"{variant:14s} {seed:4d}  {minutes:7.1f}  {name:16s}  {measured}")
                    print(lines[-1], flush=True)
        print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
