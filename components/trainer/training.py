"""Trains the network on what Transform wrote, keeps the best weights, exports the model: TFX Trainer's `run_fn`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import Any

import keras
import matplotlib
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from components.evaluator.metrics import ErrorCounts, count_errors
from components.trainer import augment, export
from components.trainer.model import Recogniser, build, needed_frames
from components.transform.geometry import COLUMNS_PER_FRAME
from components.transform.preprocessing import decode_batch, read_alphabet
from htr_client.decoding import Alphabet, BestPath
from pipeline.config import ModelConfig, TrainConfig, TransformConfig
from pipeline.console import console

HISTORY_FILE = "history.json"
CURVES_FILE = "curves.png"
SETTINGS_FILE = os.path.join("assets.extra", "htr.json")


def read_records(files: Sequence[str], feature_spec: dict[str, Any]) -> tf.data.Dataset:
    """Transformed records as batches-to-be: `image_png` string [], `labels` sparse int64, `text` string []."""
    dataset = tf.data.TFRecordDataset(list(files), compression_type="GZIP")
    return dataset.map(lambda record: tf.io.parse_single_example(record, feature_spec), tf.data.AUTOTUNE)


def batches(
    files: Sequence[str],
    feature_spec: dict[str, Any],
    transform: TransformConfig,
    train: TrainConfig,
    training: bool,
) -> tf.data.Dataset:
    """The input pipeline, streamed from the files; memory holds the shuffle buffer and a few batches.

    Args:
        files: transformed examples, gzipped TFRecords.
        feature_spec: of the transformed examples.
        transform: geometry of the image tensor.
        train: batch size, shuffling and augmentation.
        training: shuffles and distorts.

    Returns:
        Pairs of inputs (`images`, `widths`, see `Recogniser.call`) and labels int64 [N, L] padded with -1.
    """
    dataset = read_records(files, {name: feature_spec[name] for name in ("image_png", "labels")})
    dataset = dataset.map(lambda record: (record["image_png"], tf.sparse.to_dense(record["labels"])))
    if training:
        dataset = dataset.shuffle(train.shuffle_buffer, seed=train.seed, reshuffle_each_iteration=True)
    dataset = dataset.padded_batch(train.batch_size, ([], [None]), (b"", np.int64(-1)))

    def to_inputs(image_png: tf.Tensor, labels: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        images, widths = decode_batch(image_png, transform)
        if training and train.augment:
            narrowest = COLUMNS_PER_FRAME * needed_frames(labels)
            images, widths = augment.distort(images, widths, narrowest, train.augment)
        return {"images": images, "widths": widths}, labels

    return dataset.map(to_inputs, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


class Validation(keras.callbacks.Callback):
    """After each epoch: CER on the validation split, best weights, progress for people, early stopping."""

    def __init__(
        self, dataset: tf.data.Dataset, texts: list[str], alphabet: Sequence[str], steps: int, train: TrainConfig
    ):
        """Remembers what to validate on.

        Args:
            dataset: validation batches in the order of `texts`.
            texts: references.
            alphabet: characters of the classes.
            steps: of an epoch.
            train: epochs and patience.
        """
        super().__init__()
        self.dataset, self.texts, self.alphabet = dataset, texts, Alphabet(alphabet)
        self.steps, self.train = steps, train
        self.best_cer, self.best_epoch, self.best_weights = float("inf"), 0, None
        self.history: list[dict[str, float]] = []

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts the clock and, on a terminal, the bar."""
        self.begin = time.monotonic()
        self.bar = Progress(
            TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=console(), transient=True, disable=not console().is_terminal,
        )  # fmt: skip
        self.bar.start()
        self.task = self.bar.add_task("epoch 1", total=self.steps)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Resets the bar."""
        self.bar.reset(self.task, description=f"epoch {epoch + 1}/{self.train.epochs}", total=self.steps)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Moves the bar."""
        self.bar.advance(self.task)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Validates, keeps the best weights, prints a line, stops when nothing has improved for long."""
        errors = self.validate()
        cer, loss = errors.rate, float((logs or {})["loss"])
        if not np.isfinite(loss):
            raise FloatingPointError(f"the training loss became {loss} in epoch {epoch + 1}: lower train.learning_rate")
        if cer < self.best_cer:
            self.best_cer, self.best_epoch, self.best_weights = cer, epoch, self.model.get_weights()
        if logs is not None:
            logs["validation_cer"] = cer
        seconds = time.monotonic() - self.begin
        self.history.append({"epoch": epoch + 1, "loss": loss, "validation_cer": cer, "seconds": seconds})
        left = seconds / (epoch + 1) * (self.train.epochs - epoch - 1)
        console().print(
            f"  epoch {epoch + 1:3d}/{self.train.epochs}  loss {loss:7.3f}  validation CER {cer:.4f}"
            f"  (best {self.best_cer:.4f})  {_clock(seconds)} gone, {_clock(left)} left"
        )
        if epoch - self.best_epoch >= self.train.patience:
            console().print(f"  no better validation CER for {self.train.patience} epochs: training stops here")
            self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        """Puts the best weights back."""
        self.bar.stop()
        if self.best_weights is not None:
            self.model.set_weights(self.best_weights)

    def validate(self) -> ErrorCounts:
        """Errors of the current weights on the validation split."""
        predictions: list[str] = []
        for inputs, _ in self.dataset:
            outputs = _infer(self.model, inputs)
            decoded = BestPath().decode(outputs["log_probs"].numpy(), outputs["frames"].numpy(), self.alphabet)
            predictions += [result.text for result in decoded]
        return count_errors(self.texts, predictions)


@tf.function(reduce_retracing=True)
def _infer(model: Recogniser, inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    outputs = model(inputs, training=False)
    return {"log_probs": tf.nn.log_softmax(outputs["logits"]), "frames": outputs["frames"]}


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class WarmupCosine(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly to a peak, then falls along half a cosine to a hundredth of it (Loshchilov & Hutter 2017)."""

    def __init__(self, peak: float, warmup_steps: int, total_steps: int):
        """Sets peak rate and numbers of optimiser steps."""
        self.peak, self.warmup_steps, self.total_steps = peak, max(warmup_steps, 1), max(total_steps, 2)

    def __call__(self, step: Any) -> tf.Tensor:
        """Learning rate at a step."""
        step = tf.cast(step, tf.float32)
        rising = (step + 1.0) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1)
        falling = 0.01 + 0.99 * 0.5 * (1.0 + tf.cos(np.pi * tf.clip_by_value(progress, 0.0, 1.0)))
        return self.peak * tf.minimum(rising, falling)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"peak": self.peak, "warmup_steps": self.warmup_steps, "total_steps": self.total_steps}


def fit(
    model: Recogniser, training: tf.data.Dataset, validation: Validation, train: TrainConfig, log_dir: str | None = None
) -> list[dict[str, float]]:
    """Trains a network.

    Args:
        model: with initial weights; afterwards with those of the best epoch.
        training: batches of one epoch.
        validation: what to watch.
        train: optimiser and epochs.
        log_dir: for TensorBoard.

    Returns:
        Of each epoch its number, loss, validation CER and the seconds since the start.
    """
    steps = validation.steps
    schedule = WarmupCosine(train.learning_rate, int(train.warmup_epochs * steps), train.epochs * steps)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=train.weight_decay, global_clipnorm=train.clip_norm)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    model.compile(optimizer)
    callbacks: list[keras.callbacks.Callback] = [validation]
    if log_dir:
        callbacks.append(keras.callbacks.TensorBoard(log_dir, write_graph=False))
    model.fit(training, epochs=train.epochs, callbacks=callbacks, verbose=0)
    return validation.history


def use_accelerators(train: TrainConfig) -> str:
    """Lets TensorFlow take GPU memory as needed and, where it pays, compute in float16. Returns what is used."""
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    capable = [tf.config.experimental.get_device_details(gpu).get("compute_capability", (0,))[0] >= 7 for gpu in gpus]
    mixed = train.mixed_precision and bool(gpus) and all(capable)
    keras.mixed_precision.set_global_policy("mixed_float16" if mixed else "float32")
    return f"{len(gpus)} GPU(s){', float16' if mixed else ''}" if gpus else f"CPU, {os.cpu_count()} cores"


def run_fn(fn_args: Any) -> None:
    """Called by TFX Trainer.

    Args:
        fn_args: `train_files`, `eval_files` (the validation split), `transform_output`, `serving_model_dir`,
            `model_run_dir`, and in `custom_config` the sections `transform`, `model`, `train` as JSON and the
            servable's `name`.

    Raises:
        FloatingPointError: the loss is no longer finite.
    """
    transform = TransformConfig.model_validate_json(fn_args.custom_config["transform"])
    model_config = ModelConfig.model_validate_json(fn_args.custom_config["model"])
    train = TrainConfig.model_validate_json(fn_args.custom_config["train"])
    keras.utils.set_random_seed(train.seed)
    device = use_accelerators(train)

    tft_output = tft.TFTransformOutput(fn_args.transform_output)
    alphabet = read_alphabet(tft_output)
    feature_spec = tft_output.transformed_feature_spec()
    train_files, validation_files = _expand(fn_args.train_files), _expand(fn_args.eval_files)
    watched = batches(validation_files, feature_spec, transform, train, training=False)
    records = read_records(validation_files, {"text": feature_spec["text"]})
    texts = [record["text"].decode() for record in records.as_numpy_iterator()]
    samples = int(tf.data.TFRecordDataset(train_files, compression_type="GZIP").reduce(np.int64(0), lambda n, _: n + 1))

    steps = -(-samples // train.batch_size)
    training = batches(train_files, feature_spec, transform, train, training=True)
    training = training.apply(tf.data.experimental.assert_cardinality(steps))

    model = build(model_config, len(alphabet) + 1, transform.height or 0)
    console().print(
        f"  {samples} pictures to train on, {len(texts)} to watch, {len(alphabet)} characters, "
        f"{model.count_params():,} parameters, {device}"
    )
    validation = Validation(watched, texts, alphabet, steps, train)
    history = fit(model, training, validation, train, log_dir=os.path.join(fn_args.model_run_dir, "tensorboard"))

    served = export.ServedModel(model, tft_output, alphabet, transform)
    pictures = _pictures_for_warmup(validation_files, feature_spec)
    export.save(served, fn_args.serving_model_dir, pictures, fn_args.custom_config["name"])
    settings = {"alphabet": alphabet, "transform": transform.model_dump(), "model": model_config.model_dump(),
                "train": train.model_dump(), "best_validation_cer": validation.best_cer}  # fmt: skip
    _write(os.path.join(fn_args.serving_model_dir, SETTINGS_FILE), json.dumps(settings, indent=1, ensure_ascii=False))
    _write(os.path.join(fn_args.model_run_dir, HISTORY_FILE), json.dumps(history, indent=1))
    with tf.io.gfile.GFile(os.path.join(fn_args.model_run_dir, CURVES_FILE), "wb") as file:
        plot_curves(history, file)


def _expand(patterns: Sequence[str]) -> list[str]:
    return sorted(file for pattern in patterns for file in tf.io.gfile.glob(pattern))


def _pictures_for_warmup(files: Sequence[str], feature_spec: dict[str, Any], count: int = 4) -> list[bytes]:
    """A few real pictures of the dataset as dark ink on white paper, in the size that the network sees."""
    records = read_records(files, {"image_png": feature_spec["image_png"]}).take(count)
    return [
        tf.io.encode_png(255 - tf.io.decode_png(record["image_png"])).numpy()
        for record in records
        if tf.strings.length(record["image_png"]) > 0
    ]


def _write(path: str, text: str) -> None:
    tf.io.gfile.makedirs(os.path.dirname(path))
    with tf.io.gfile.GFile(path, "w") as file:
        file.write(text)


def plot_curves(history: list[dict[str, float]], file: Any) -> None:
    """Draws training loss and validation CER by epoch as PNG into a binary file."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    epochs = [h["epoch"] for h in history]
    figure, loss_axis = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
    loss_axis.plot(epochs, [h["loss"] for h in history], color="tab:grey", label="training loss")
    loss_axis.set_xlabel("epoch")
    loss_axis.set_ylabel("CTC loss (nats per picture)")
    cer_axis = loss_axis.twinx()
    cer_axis.plot(epochs, [h["validation_cer"] for h in history], color="tab:blue", label="validation CER")
    cer_axis.set_ylabel("validation CER")
    cer_axis.set_ylim(0, 1)
    figure.legend(loc="upper right", bbox_to_anchor=(0.88, 0.92))
    figure.savefig(file, format="png", dpi=120)
    pyplot.close(figure)
