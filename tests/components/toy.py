"""A toy script that a small network learns in seconds, as Transform writes it; and `run_fn` on it as a process.

`python -m tests.components.toy ARGUMENTS.json` calls Trainer's `run_fn`, for tests that kill it or start several.
"""

import atexit
import gc
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from components.trainer.settings import ModelConfig, TrainConfig
from components.transform.settings import TransformConfig
from tests.conftest import encode

if TYPE_CHECKING:
    from components.trainer.fitting import Fitting
    from components.trainer.input_pipeline import Source

SMALL = ModelConfig(filters=[8, 16, 16], recurrent_units=24, recurrent_layers=1, dropout=0)
TRAIN = TrainConfig(epochs=12, batch_size=8, learning_rate=0.004, augment=0, patience=12)
COLD = TRAIN.model_copy(update={"warm_start": None})
LINE = TransformConfig(preset="line", height=32, width=400)
VERSION = Path("htr", "1700000000")
WORDS = ["ab", "ba", "aab", "cab", "abc", "bca", "caab", "bbc"]


def drawn(word: str, seed: int) -> bytes:
    """A PNG of a word: a, b, c and d are a bar, a box, a cross and a gallows."""
    random = np.random.default_rng(seed)
    page = np.full((40, 30 + 28 * len(word)), 230, np.uint8)
    for i, letter in enumerate(word):
        x, y = 12 + 28 * i + int(random.integers(-2, 3)), 8 + int(random.integers(-2, 3))
        if letter == "a":
            cv2.line(page, (x + 8, y), (x + 8, y + 22), 30, 2)
        elif letter == "b":
            cv2.rectangle(page, (x, y), (x + 16, y + 22), 30, 2)
        elif letter == "c":
            cv2.line(page, (x, y), (x + 16, y + 22), 30, 2)
            cv2.line(page, (x + 16, y), (x, y + 22), 30, 2)
        else:
            cv2.polylines(page, [np.array([[x, y + 22], [x, y], [x + 16, y], [x + 16, y + 8]])], False, 30, 2)
    return encode(page)


def write_transformed(folder: Path, words: Sequence[str], transform: TransformConfig) -> Path:
    """Images of the words as Transform leaves them: `train.gz` and `tft/` in the folder."""
    import tensorflow as tf
    import tensorflow_transform as tft
    import tensorflow_transform.beam as tft_beam
    from tensorflow_transform.tf_metadata import metadata_io

    from components.transform import preprocessing

    raw = [
        {"image": [drawn(word, i)], "text": [word.encode()], "id": [b"%d" % i], "writer": [b""], "source": [b""]}
        for i, word in enumerate(words)
    ]
    spec = {name: tf.io.FixedLenFeature([1], tf.string) for name in raw[0]}
    config = {"transform": transform.model_dump_json(), "alphabet": None}
    with tft_beam.Context(temp_dir=str(folder / "tmp")):
        (data, metadata), transform_fn = (
            (raw, tft.DatasetMetadata.from_feature_spec(spec))
            | tft_beam.AnalyzeAndTransformDataset(lambda inputs: preprocessing.preprocessing_fn(inputs, config))
        )  # fmt: skip
        transform_fn | tft_beam.WriteTransformFn(str(folder / "tft"))
    metadata_io.write_metadata(metadata, str(folder / "tft" / "transformed_metadata"))
    coder = tft.coders.ExampleProtoCoder(metadata.schema)
    with tf.io.TFRecordWriter(str(folder / "train.gz"), "GZIP") as writer:
        for row in data:
            writer.write(coder.encode(row))
    return folder


def source_of(folder: Path, transform: TransformConfig | None = None) -> "Source":
    """What training knows of the images in such a folder."""
    import tensorflow_transform as tft

    from components.trainer.input_pipeline import survey

    spec = tft.TFTransformOutput(str(folder / "tft")).transformed_feature_spec()
    return survey([str(folder / "train.gz")], spec, transform or TransformConfig())


def fit(source: "Source", train: TrainConfig, kind: "type[Fitting] | None" = None, **kwargs: Any) -> "Fitting":
    """Trains on the images, with the seed of `train`, and validates on them; `kind` is a subclass to do it with."""
    import keras

    from components.trainer.fitting import Fitting
    from components.trainer.model import build

    keras.utils.set_random_seed(train.seed)
    fitting = (kind or Fitting)(build(SMALL, 4, 32), source, source, ["a", "b", "c"], train, **kwargs)
    fitting.run()
    return fitting


def start(json_file: Path, **environment: str) -> subprocess.Popen:
    """This module as a process, whose output is `json_file` with `.log` behind it."""
    command = [sys.executable, "-m", "tests.components.toy", str(json_file)]
    log = open(f"{json_file}.log", "w")  # noqa: SIM115
    return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})


def arguments(data: Path, out: Path, train: TrainConfig, transform: TransformConfig) -> dict[str, Any]:
    """Arguments of `run_fn`: trains and validates on `data`, writes below `out`."""
    return {
        "train_files": [str(data / "train.gz")],
        "eval_files": [str(data / "train.gz")],
        "transform_output": str(data / "tft"),
        "serving_model_dir": str(out / "model"),
        "model_run_dir": str(out / "run"),
        "custom_config": {
            "transform": transform.model_dump_json(),
            "model": SMALL.model_dump_json(),
            "train": train.model_dump_json(),
            "name": "htr",
            "checkpoint_dir": str(out / "checkpoints"),
        },
    }


def version(folder: Path) -> None:
    """Trains a model for lines that transcribes the toy script: the directory VERSION, as Pusher leaves it."""
    from components.trainer.training import run_fn

    data = write_transformed(folder / "data", WORDS * 24, LINE)
    run_fn(SimpleNamespace(**arguments(data, folder / "out", TRAIN, LINE)))
    version = folder / VERSION
    version.parent.mkdir()
    (folder / "out" / "model").rename(version)
    version.with_name(f"{version.name}.model_card.md").write_text("# Model card: toy\n")
    version.with_name(f"{version.name}.metrics.json").write_text(
        json.dumps({"metrics": {"cer": 0.25}, "config": {"data": {"paths": [str(data)]}}})
    )


if __name__ == "__main__":
    atexit.register(gc.freeze)  # the end of the process would go through all that was imported
    from components.trainer.training import run_fn

    run_fn(SimpleNamespace(**json.loads(Path(sys.argv[1]).read_text())))
