"""The measurements of `htr doctor --gpu`, each in a process of its own, which sees the devices that it is to use.

`python -m pipeline.doctor.gpu_benchmark JOB.json` does what the file says and writes its answer beside it.
"""

from __future__ import annotations

import atexit
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import metadata_io

from components.common.metrics import count_errors
from components.example_gen import dataset
from components.example_gen.settings import DataConfig
from components.tools.sample_data import generate
from components.trainer import export, training
from components.trainer.accelerators import use_accelerators
from components.trainer.model import build
from components.trainer.settings import ModelConfig, TrainConfig
from components.trainer.transfer import start_from
from components.transform import preprocessing
from components.transform.settings import TransformConfig
from serving.version_directory import SETTINGS_FILE

_TRANSFORM = TransformConfig()
_BATCH = 32  # images of one call when the speed of transcribing is measured
_VALIDATION = 64  # few, since an epoch's time includes its validation


def main() -> None:
    """Does the job of the file that is named on the command line."""
    atexit.register(gc.freeze)  # the end of the process would go through all that was imported
    path = Path(sys.argv[1])
    job = json.loads(path.read_text())
    jobs: dict[str, Callable[..., Any]] = {"prepare": prepare, "train": train, "transcribe": transcribe}
    answer = jobs[job.pop("do")](path.parent, **job)
    path.with_suffix(".answer").write_text(json.dumps(answer))


def prepare(folder: Path, images: int) -> dict[str, Any]:
    """Renders sample data, and writes what Transform makes of it.

    Args:
        folder: Folder that gets `data/`, `tft/`, `train.gz` and `validation.gz`.
        images: Number of images to render.

    Returns:
        Number of images by split.
    """
    generate(folder / "data", images, dirty_fraction=0)
    samples = _samples(folder)
    rows = {split: [_raw(s) for s in samples if s.split == split] for split in ("train", "validation", "eval")}
    metadata = tft.DatasetMetadata.from_feature_spec(
        {name: tf.io.FixedLenFeature([1], tf.string) for name in rows["train"][0]}
    )
    config = {"transform": _TRANSFORM.model_dump_json(), "alphabet": None}
    with tft_beam.Context(temp_dir=str(folder / "tmp")):
        analyze = tft_beam.AnalyzeAndTransformDataset(lambda inputs: preprocessing.preprocessing_fn(inputs, config))
        (train, schema), function = (rows["train"], metadata) | analyze
        function | tft_beam.WriteTransformFn(str(folder / "tft"))
        validation, _ = ((rows["validation"][:_VALIDATION], metadata), function) | tft_beam.TransformDataset()
    metadata_io.write_metadata(schema, str(folder / "tft" / "transformed_metadata"))
    coder = tft.coders.ExampleProtoCoder(schema.schema)
    for split, examples in (("train", train), ("validation", validation)):
        with tf.io.TFRecordWriter(str(folder / f"{split}.gz"), "GZIP") as writer:
            for example in examples:
                writer.write(coder.encode(example))
    return {split: len(members) for split, members in rows.items()}


def train(folder: Path, name: str, epochs: int, mixed_precision: bool) -> dict[str, Any]:
    """Trains with Trainer's own function, and exports.

    Args:
        folder: Folder of `prepare`.
        name: The model's; it is exported to this folder.
        epochs: How many; at least two, since the first one is not measured.
        mixed_precision: Whether to compute in float16 where the GPU can.

    Returns:
        What it ran on, seconds of an epoch with its validation, the lowest validation CER, and the most bytes of GPU
        memory that were taken.
    """
    settings = TrainConfig(epochs=epochs, patience=epochs, mixed_precision=mixed_precision)
    device = use_accelerators(settings)
    precision = keras.mixed_precision.dtype_policy().compute_dtype
    target, run = folder / name, folder / f"{name}-run"
    training.run_fn(
        SimpleNamespace(
            train_files=[str(folder / "train.gz")], eval_files=[str(folder / "validation.gz")],
            transform_output=str(folder / "tft"), serving_model_dir=str(target), model_run_dir=str(run),
            custom_config={
                "transform": _TRANSFORM.model_dump_json(), "model": ModelConfig().model_dump_json(),
                "train": settings.model_dump_json(), "name": "htr",
            },
        )
    )  # fmt: skip
    history = json.loads((run / training.HISTORY_FILE).read_text())
    seconds = [epoch["seconds"] for epoch in history if epoch["epoch"] >= 1]
    gpus = tf.config.list_physical_devices("GPU")
    return {
        "device": device,
        "precision": precision,
        "epoch_seconds": (seconds[-1] - seconds[0]) / (len(seconds) - 1),
        "validation_cer": min(epoch["validation_cer"] for epoch in history),
        "memory": tf.config.experimental.get_memory_info("GPU:0")["peak"] if gpus else None,
    }


def transcribe(folder: Path, name: str, precision: str, seconds: float) -> dict[str, Any]:
    """Transcribes the evaluation split, and measures how fast.

    Args:
        folder: Folder of `prepare`.
        name: The model's.
        precision: float32, as it is served, or float16, as the network computes in training with mixed precision.
        seconds: How long to measure.

    Returns:
        Texts and confidences in the order of the data, CER against the labels, images per second in batches, and the
        median milliseconds of one image alone.
    """
    settings = json.loads((folder / name / SETTINGS_FILE).read_text())
    if precision == "float16":
        keras.mixed_precision.set_global_policy("mixed_float16")
        alphabet, model = settings["alphabet"], ModelConfig.model_validate(settings["model"])
        network = build(model, len(alphabet) + 1, _TRANSFORM.height or 0)
        start_from(network, alphabet, str(folder / name))
        served = export.ServedModel(network, alphabet, _TRANSFORM, settings["temperature"])
        call = served.functions["transcribe"]
    else:
        loaded = tf.saved_model.load(str(folder / name))
        call = loaded.signatures["transcribe"]
    samples = [sample for sample in _samples(folder) if sample.split == "eval"]
    batches = [tf.constant([s.image for s in samples[i : i + _BATCH]]) for i in range(0, len(samples), _BATCH)]
    outputs = [call(image_bytes=batch) for batch in batches]
    texts = [text.decode() for output in outputs for text in output["text"].numpy()]
    one, whole = batches[0][:1], batches[0]
    call(image_bytes=one)
    times = [_timed(call, one) for _ in range(20)]
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        _timed(call, whole)
        done += len(whole)
    rate = done / (time.perf_counter() - begin)
    return {
        "texts": texts,
        "confidences": [float(value) for output in outputs for value in output["confidence"].numpy()],
        "cer": count_errors([sample.text for sample in samples], texts).rate,
        "rate": rate,
        "milliseconds": 1000 * statistics.median(times),
    }


def _samples(folder: Path) -> list[dataset.Sample]:
    rows = dataset.examine_all(DataConfig(paths=[str(folder / "data")]), _TRANSFORM)
    return [row for row in rows if isinstance(row, dataset.Sample)]


def _raw(sample: dataset.Sample) -> dict[str, list[bytes]]:
    texts = {name: [getattr(sample, name).encode()] for name in ("text", "id", "writer", "source")}
    return {"image": [sample.image], **texts}


def _timed(call: Any, images: tf.Tensor) -> float:
    begin = time.perf_counter()
    call(image_bytes=images)["text"].numpy()  # waits for the device
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
