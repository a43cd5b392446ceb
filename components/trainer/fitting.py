"""The training loop: optimiser, weight averaging, validation, early stopping, checkpoints that survive a kill."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from components.evaluator.metrics import ErrorCounts, count_errors
from components.trainer.input_pipeline import Source, batches, divisible, plain_batches
from components.trainer.model import Recogniser, ctc_loss
from htr_client.decoding import Alphabet, BestPath
from pipeline import code_version
from pipeline.config import TrainConfig
from pipeline.console import console

CHECKPOINT_FILE = "checkpoint.npz"


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


def training_strategy() -> tf.distribute.Strategy:
    """How training is spread: over the workers that TF_CONFIG names, over the GPUs of this machine, or not at all.

    To be called before any other TensorFlow operation: TensorFlow sets up collective operations only then.
    """
    cluster = _tf_config().get("cluster", {})
    if sum(len(addresses) for addresses in cluster.values()) > 1:
        return tf.distribute.MultiWorkerMirroredStrategy()
    if len(tf.config.list_physical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def is_chief() -> bool:
    """Whether this process is the one that writes: the only one, or the first worker of TF_CONFIG."""
    cluster, task = (_tf_config().get(part, {}) for part in ("cluster", "task"))
    chief = ("chief" if "chief" in cluster else "worker", 0)
    return not cluster or (task["type"], int(task["index"])) == chief


def _tf_config() -> dict[str, Any]:
    """What Kubeflow's training operator and others tell each worker about the cluster and its own place in it."""
    return json.loads(os.environ.get("TF_CONFIG") or "{}")


class Fitting:
    """A training: what it has done so far, and how to go on.

    Attributes:
        model: the network; after `run` it has the averaged weights of the best epoch.
        history: of each epoch its number, loss, validation CER, learning rate and the seconds since the start.
        best_cer: lowest validation CER.
    """

    def __init__(
        self,
        model: Recogniser,
        training: Source,
        validation: Source,
        alphabet: Sequence[str],
        train: TrainConfig,
        checkpoint_dir: str | None = None,
        strategy: tf.distribute.Strategy | None = None,
    ):
        """Prepares the optimiser.

        Args:
            model: with initial weights.
            training: pictures to learn from.
            validation: pictures to watch.
            alphabet: characters of the classes.
            train: optimiser, epochs, batches.
            checkpoint_dir: where to save the state every now and then, and to look for one to go on from.
            strategy: within whose scope the model was made; None on one device.
        """
        self.model, self.training, self.validation, self.train = model, training, validation, train
        self.alphabet = Alphabet(alphabet)
        self.strategy = strategy or tf.distribute.get_strategy()
        self.steps = training.steps(train.batch_size)
        self.checkpoint = os.path.join(checkpoint_dir, CHECKPOINT_FILE) if checkpoint_dir else None
        schedule = WarmupCosine(train.learning_rate, int(train.warmup_epochs * self.steps), train.epochs * self.steps)
        with self.strategy.scope():
            self.optimizer = keras.optimizers.AdamW(
                schedule, weight_decay=train.weight_decay, global_clipnorm=train.clip_norm
            )
            self.optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
            if keras.mixed_precision.dtype_policy().compute_dtype == "float16":
                self.optimizer = keras.mixed_precision.LossScaleOptimizer(self.optimizer)
            self.optimizer.build(model.trainable_variables)
        # Moving averages of the weights (Polyak & Juditsky 1992) and of the normalisation's statistics with them.
        self._averaged_variables = [v for v in model.variables if v.dtype == "float32"]
        self._averages = [tf.Variable(v.numpy(), trainable=False) for v in self._averaged_variables]
        self._steps_before = tf.Variable(0.0, trainable=False)
        self.history: list[dict[str, float]] = []
        self.best_cer, self.best_epoch = float("inf"), 0
        self.best_weights = self._weights()
        self.done = 0
        self._losses: list[float] = []
        self._seconds_before = 0.0
        self._step = tf.function(self._distributed_step, reduce_retracing=True)
        self._infer = tf.function(self._log_probs, reduce_retracing=True)

    def run(self, log_dir: str | None = None) -> None:
        """Trains to the last epoch, or until nothing has improved for `patience` epochs.

        Args:
            log_dir: for TensorBoard.

        Raises:
            FloatingPointError: the loss is no longer finite.
        """
        if self._restore():
            console().print(
                f"  going on after {self.done // self.steps} epochs and {self.done % self.steps} batches "
                f"of a training that was interrupted"
            )
        begin = last_save = time.monotonic()
        writer = tf.summary.create_file_writer(log_dir) if log_dir and is_chief() else tf.summary.create_noop_writer()
        on_terminal = console().is_terminal and is_chief()
        with Progress(
            TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=console(), transient=True, disable=not on_terminal,
        ) as bar, writer.as_default():  # fmt: skip
            task = bar.add_task("")
            stream = self._stream()
            while self.done < self.train.epochs * self.steps and not self._patience_is_over():
                epoch, batch = divmod(self.done, self.steps)
                bar.update(
                    task, description=f"epoch {epoch + 1}/{self.train.epochs}", total=self.steps, completed=batch
                )
                self._losses.append(self._step(next(stream)))
                self.done += 1
                ended = self.done % self.steps == 0
                if ended:
                    self._end_epoch(epoch, self._seconds_before + time.monotonic() - begin)
                if self.checkpoint and (ended or time.monotonic() - last_save > 60.0 * self.train.checkpoint_minutes):
                    self._save(self._seconds_before + time.monotonic() - begin)
                    last_save = time.monotonic()
        self._set_weights(self.best_weights)

    def forget(self) -> None:
        """Deletes the checkpoint: the training has been used."""
        if self.checkpoint and is_chief() and tf.io.gfile.exists(self.checkpoint):
            tf.io.gfile.remove(self.checkpoint)

    def validate(self) -> ErrorCounts:
        """Errors of the current weights on the validation split."""
        texts: list[str] = []
        predictions: list[str] = []
        for inputs, references in plain_batches(self.validation, self.train.batch_size):
            log_probs, frames = self._infer(inputs)
            texts += [text.decode() for text in references.numpy()]
            decoded = BestPath().decode(log_probs.numpy(), frames.numpy(), self.alphabet)
            predictions += [result.text for result in decoded]
        return count_errors(texts, predictions)

    def _stream(self) -> Iterator[Any]:
        dataset = batches(self.training, self.train, self.train.epochs, self.done)
        if self.strategy.num_replicas_in_sync > 1:
            dataset = divisible(dataset, self.strategy.num_replicas_in_sync)
            options = tf.data.Options()
            options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
            dataset = self.strategy.experimental_distribute_dataset(dataset.with_options(options))
        return iter(dataset)

    def _distributed_step(self, batch: Any) -> tf.Tensor:
        losses = self.strategy.run(self._replica_step, args=batch)
        # Over a tenth of the steps so far at first, so that the initial weights are soon forgotten.
        steps = self._steps_before.assign_add(1.0)
        share = tf.maximum(1.0 / max(self.train.average_epochs * self.steps, 1.0), 9.0 / (9.0 + steps))
        for average, variable in zip(self._averages, self._averaged_variables, strict=True):
            average.assign_add(share * (tf.convert_to_tensor(variable.value) - average))
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)

    def _replica_step(self, inputs: dict[str, tf.Tensor], labels: tf.Tensor) -> tf.Tensor:
        """One step of the optimiser on a replica's share of a batch. Returns the share's part of the mean loss."""
        share = 1.0 / self.strategy.num_replicas_in_sync
        with tf.GradientTape() as tape:
            outputs = self.model(inputs, training=True)
            loss = tf.reduce_mean(ctc_loss(labels, outputs["logits"], outputs["frames"]))
            shortcut = tf.reduce_mean(ctc_loss(labels, outputs["shortcut_logits"], outputs["frames"]))
            scaled = self.optimizer.scale_loss((loss + self.train.shortcut * shortcut) * share)
        variables = [variable.value for variable in self.model.trainable_variables]
        self.optimizer.apply(tape.gradient(scaled, variables), self.model.trainable_variables)
        return loss * share

    def _log_probs(self, inputs: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        outputs = self.model(inputs, training=False)
        return tf.nn.log_softmax(outputs["logits"]), outputs["frames"]

    def _end_epoch(self, epoch: int, seconds: float) -> None:
        """Validates the averaged weights, keeps them if they are the best, prints a line."""
        loss = float(np.mean(self._losses))
        self._losses = []
        if not np.isfinite(loss):
            raise FloatingPointError(f"the training loss became {loss} in epoch {epoch + 1}: lower train.learning_rate")
        with self._averaged():
            cer = self.validate().rate
            if cer < self.best_cer:
                self.best_cer, self.best_epoch, self.best_weights = cer, epoch, self._weights()
        rate = float(self.optimizer.learning_rate)
        self.history.append(
            {"epoch": epoch + 1, "loss": loss, "validation_cer": cer, "learning_rate": rate, "seconds": seconds}
        )
        for name in ("loss", "validation_cer", "learning_rate"):
            tf.summary.scalar(name, self.history[-1][name], step=epoch + 1)
        if is_chief():
            left = seconds / (epoch + 1) * (self.train.epochs - epoch - 1)
            console().print(
                f"  epoch {epoch + 1:3d}/{self.train.epochs}  loss {loss:7.3f}  validation CER {cer:.4f}"
                f"  (best {self.best_cer:.4f})  {_clock(seconds)} gone, {_clock(left)} left"
            )
            if self._patience_is_over():
                console().print(f"  no better validation CER for {self.train.patience} epochs: training stops here")

    def _patience_is_over(self) -> bool:
        return self.done // self.steps > self.best_epoch + self.train.patience

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The network with the averaged weights."""
        own = self._weights()
        for variable, average in zip(self._averaged_variables, self._averages, strict=True):
            variable.assign(average)
        try:
            yield
        finally:
            self._set_weights(own)

    def _weights(self) -> list[np.ndarray]:
        return [variable.numpy() for variable in self.model.variables]

    def _set_weights(self, weights: Sequence[np.ndarray]) -> None:
        for variable, value in zip(self.model.variables, weights, strict=True):
            variable.assign(value)

    def _state(self) -> dict[str, list[Any]]:
        averages = [*self._averages, self._steps_before]
        return {"model": self.model.variables, "optimizer": self.optimizer.variables, "averages": averages}

    def _save(self, seconds: float) -> None:
        """Writes everything that `_restore` needs: the file is the old one or the new one, never a part."""
        arrays = {
            f"{part}/{i}": v.numpy() for part, variables in self._state().items() for i, v in enumerate(variables)
        }
        arrays.update({f"best/{i}": value for i, value in enumerate(self.best_weights)})
        progress = {
            "done": self.done, "history": self.history, "best_cer": self.best_cer, "best_epoch": self.best_epoch,
            "losses": [float(loss) for loss in self._losses], "seconds": seconds,
        }  # fmt: skip
        if not self.checkpoint or not is_chief():
            return
        buffer = io.BytesIO()
        np.savez(buffer, progress=np.frombuffer(json.dumps(progress).encode(), np.uint8), **arrays)
        tf.io.gfile.makedirs(os.path.dirname(self.checkpoint))
        incoming = f"{self.checkpoint}.incoming"
        with tf.io.gfile.GFile(incoming, "wb") as file:
            file.write(buffer.getvalue())
        tf.io.gfile.rename(incoming, self.checkpoint, overwrite=True)

    def _restore(self) -> bool:
        if not self.checkpoint or not tf.io.gfile.exists(self.checkpoint):
            return False
        try:
            with tf.io.gfile.GFile(self.checkpoint, "rb") as file:
                arrays = dict(np.load(io.BytesIO(file.read()), allow_pickle=False))
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            console().print(f"  {self.checkpoint} is damaged ({error}): the training starts anew", markup=False)
            return False
        for part, variables in self._state().items():
            for i, variable in enumerate(variables):
                variable.assign(arrays[f"{part}/{i}"])
        self.best_weights = [arrays[f"best/{i}"] for i in range(len(self.best_weights))]
        progress = json.loads(arrays["progress"].tobytes())
        self.done, self.history, self._losses = progress["done"], progress["history"], progress["losses"]
        self.best_cer, self.best_epoch = progress["best_cer"], progress["best_epoch"]
        self._seconds_before = progress["seconds"]
        return True


def has_checkpoint(directory: str) -> bool:
    """Whether an interrupted training has left its state in a directory."""
    return tf.io.gfile.exists(os.path.join(directory, CHECKPOINT_FILE))


def fingerprint(files: Sequence[str], *settings: str) -> str:
    """Name of a training: the same for the same files (path and size), settings and code, so that it can be resumed."""
    code = code_version.digest(["components.trainer.training"])
    parts = [code, *settings, *(f"{file} {tf.io.gfile.stat(file).length}" for file in sorted(files))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
