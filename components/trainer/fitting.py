"""The training loop: optimiser, weight averaging, validation, early stopping, checkpoints that survive a kill."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from components.common.ahead import NETWORK_THREADS, ahead
from components.common.console import announced, console
from components.common.words import counted
from components.trainer import checkpoint
from components.trainer.accelerators import is_chief
from components.trainer.averaging import AveragedWeights
from components.trainer.input_pipeline import Source, batches, divisible, plain_batches
from components.trainer.model import Recogniser, ctc_loss
from components.trainer.outcome import Outcome, Validation, advice_for_collapse, compare, still_falling
from components.trainer.progress import Progress
from components.trainer.schedule import schedule_for
from components.trainer.settings import TrainConfig
from htr_client.decoding import Alphabet, BestPath

# Batches after which the loss is looked at within an epoch: the same ones on every worker, so that all stop together.
_CHECKED = 100
_LEFT_OUT = 0.1  # share of these whose numbers may be no longer finite; with more a training is broken


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


class Fitting:
    """A training: what it has done so far, and how to go on.

    It keeps the weights of the last epoch that reads the validation images not clearly worse than the epoch with the
    lowest CER (`outcome.Validation.is_clearly_worse`): the validation split is a few writers, and later weights read
    others better (docs/accuracy.md). The base of a warm start is validated before the first optimiser step, and is kept
    unless an epoch has a lower CER: a training that only damages ends where it began. A share of the base's weights is
    put into those of the epoch that was kept (`train.start_share`), unless such weights would not be kept
    (`train.start_share_checked`).

    A batch whose loss or gradients are not finite changes nothing; such batches are counted. In bfloat16 on a processor
    with AMX there was one in some 1,500.

    Attributes:
        model: The network; after `run` it has the averaged weights of the epoch that was kept.
        weights: Its weights, and their moving averages.
        schedule: Epochs, patience and learning rate, with what the configuration leaves open filled in.
        history: Entries of all epochs; `outcome.Outcome` lists what they hold.
        best_epoch: Epoch whose weights are kept, 0 for the base of a warm start.
        best_cer: Its validation CER.
        lowest_cer: Lowest validation CER of all epochs.
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
            model: Network with initial weights, those of the base where `train.warm_start` is set.
            training: Images to learn from.
            validation: Images to monitor the training with.
            alphabet: Characters of the classes.
            train: Optimiser, epochs, batches.
            checkpoint_dir: Where to save the state every now and then, and to look for one to go on from.
            strategy: Within whose scope the model was made; None on one device.
        """
        self.model, self.training, self.validation, self.train = model, training, validation, train
        self.schedule = schedule_for(train, training.samples)
        self.alphabet = Alphabet(alphabet)
        self.strategy = strategy or tf.distribute.get_strategy()
        self.steps = training.steps(train.batch_size)
        self.total = self.schedule.epochs * self.steps
        self.checkpoint = os.path.join(checkpoint_dir, checkpoint.CHECKPOINT_FILE) if checkpoint_dir else None
        rate = WarmupCosine(self.schedule.learning_rate, int(train.warmup_epochs * self.steps), self.total)
        with self.strategy.scope():
            self.optimizer = keras.optimizers.AdamW(
                rate, weight_decay=train.weight_decay, global_clipnorm=train.clip_norm
            )
            self.optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
            if keras.mixed_precision.dtype_policy().compute_dtype == "float16":
                self.optimizer = keras.mixed_precision.LossScaleOptimizer(self.optimizer)
            self.optimizer.build(model.trainable_variables)
        self.weights = AveragedWeights(model, train.average_epochs * self.steps, train.is_warm)
        self.history: list[dict[str, Any]] = []
        self.best_cer, self.lowest_cer, self.best_epoch = float("inf"), float("inf"), 0
        self._lowest: Sequence[tuple[int, int]] = []
        self._best_collapse: str | None = None
        self._start = self.best_weights = self.weights.current()
        self.done = 0
        self._losses: list[float] = []
        self._broken: str | None = None
        self._told_collapse = False
        self._seconds_before = 0.0
        self._step = tf.function(self._distributed_step, autograph=False, reduce_retracing=True)
        self.log_probs = tf.function(self._log_probs, autograph=False, reduce_retracing=True)

    def run(self, log_dir: str | None = None) -> None:
        """Trains to the last epoch, or until validation has been clearly worse for as many epochs as patience lasts.

        Args:
            log_dir: Directory for TensorBoard.

        Raises:
            FloatingPointError: The loss is no longer finite. A warm start ends with its best weights instead.
        """
        if self._restore():
            console().print(
                f"  going on after {counted(self.done // self.steps, 'epoch')} and "
                f"{counted(self.done % self.steps, 'batch', 'batches')} of a training that was interrupted"
            )
        last_save = time.monotonic()
        writer = tf.summary.create_file_writer(log_dir) if log_dir and is_chief() else tf.summary.create_noop_writer()
        sizes = (self.schedule.epochs, self.steps, self.training.samples)
        with Progress(*sizes, self.done, self._seconds_before, is_chief()) as progress, writer.as_default():
            if self.train.is_warm and not self.history:
                self._measure_base(progress)
            stream = self._stream()
            first = announced("Building the network's graph") if is_chief() else nullcontext()
            while not self._is_over():
                with first:
                    self._losses.append(self._step(next(stream)))
                first = nullcontext()
                self.done += 1
                progress.batch(self.done, self._recent_loss)
                ended = self.done % self.steps == 0
                if (ended or len(self._losses) % _CHECKED == 0) and self._is_broken():
                    break
                if ended:
                    self._end_epoch(progress)
                if self.checkpoint and (ended or time.monotonic() - last_save > 60.0 * self.train.checkpoint_minutes):
                    self._save(progress.seconds)
                    last_save = time.monotonic()
        self.weights.assign(self.best_weights)
        if is_chief():
            self._tell_end()
        if self.train.is_warm and self.train.start_share and self.best_epoch:
            self._mix()

    def outcome(self, device: str = "") -> Outcome:
        """Facts about the training that has been run.

        Args:
            device: What it ran on.
        """
        base = self.history[0]["validation_cer"] if self.train.is_warm else None
        ended = "loss" if self._broken else "epochs" if self.done >= self.total else "patience"
        return Outcome(
            images=self.training.samples, validation_images=self.validation.samples, epochs=self.schedule.epochs,
            epochs_done=self.done // self.steps, steps=self.done, best_epoch=self.best_epoch,
            best_validation_cer=self.best_cer, base_validation_cer=base, ended=ended,
            still_falling=ended == "epochs" and still_falling(self.history), collapse=self._best_collapse,
            device=device, seconds=self.history[-1]["seconds"],
        )  # fmt: skip

    def forget(self) -> None:
        """Deletes the checkpoint: the training has been used."""
        if self.checkpoint and is_chief() and tf.io.gfile.exists(self.checkpoint):
            tf.io.gfile.remove(self.checkpoint)

    def validate(self) -> Validation:
        """How the current weights read the validation split."""

        def read(batch: tuple[dict[str, tf.Tensor], tf.Tensor]) -> list[np.ndarray]:
            return [part.numpy() for part in (*self.log_probs(batch[0]), batch[1])]

        texts: list[str] = []
        predictions: list[str] = []
        with announced("Reading the validation images", after=20.0) if is_chief() else nullcontext():
            images = plain_batches(self.validation, self.train.batch_size)
            for log_probs, frames, references in ahead(read, images, NETWORK_THREADS):
                texts += [text.decode() for text in references]
                predictions += [result.text for result in BestPath().decode(log_probs, frames, self.alphabet)]
        return compare(texts, predictions)

    def _stream(self) -> Iterator[Any]:
        dataset = batches(self.training, self.train, self.schedule.epochs, self.done)
        if self.strategy.num_replicas_in_sync > 1:
            dataset = divisible(dataset, self.strategy.num_replicas_in_sync)
            options = tf.data.Options()
            options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
            dataset = self.strategy.experimental_distribute_dataset(dataset.with_options(options))
        return iter(dataset)

    def _distributed_step(self, batch: Any) -> tf.Tensor:
        losses = self.strategy.run(self._replica_step, args=batch)
        self.weights.update()
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)

    def _replica_step(self, inputs: dict[str, tf.Tensor], labels: tf.Tensor) -> tf.Tensor:
        """One step of the optimiser on a replica's share of a batch.

        Returns:
            The share's part of the mean loss; NaN where the step was left out.
        """
        share = 1.0 / self.strategy.num_replicas_in_sync
        statistics = [v.value for v in self.model.non_trainable_variables if v.dtype == "float32"]
        before = [tf.identity(variable) for variable in statistics]
        with tf.GradientTape() as tape:
            outputs = self.model(inputs, training=True)
            loss = tf.reduce_mean(ctc_loss(labels, outputs["logits"], outputs["frames"]))
            shortcut = tf.reduce_mean(ctc_loss(labels, outputs["shortcut_logits"], outputs["frames"]))
            scaled = self.optimizer.scale_loss((loss + self.train.shortcut * shortcut) * share)
        variables = [variable.value for variable in self.model.trainable_variables]
        gradients = tape.gradient(scaled, variables)
        finite = tf.math.is_finite(tf.linalg.global_norm(gradients)) & tf.math.is_finite(loss)
        for variable, value in zip(statistics, before, strict=True):
            variable.assign(tf.where(finite, variable, value))
        if not isinstance(self.optimizer, keras.mixed_precision.LossScaleOptimizer):  # which has to see what is not
            gradients = [tf.where(finite, gradient, 0.0) for gradient in gradients]
        self.optimizer.apply(gradients, self.model.trainable_variables)
        return tf.where(finite, loss * share, np.nan)

    def _log_probs(self, inputs: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        outputs = self.model(inputs, training=False)
        return tf.nn.log_softmax(outputs["logits"]), outputs["frames"]

    def _measure_base(self, progress: Progress) -> None:
        """Validates a warm start's base as epoch 0: the training has to beat it."""
        found = self._validated(0, None, progress.seconds)
        if is_chief():
            console().print(f"  epoch   0/{self.schedule.epochs}  the base      validation CER {found.rate:.4f}")
            self._tell_collapse(found)

    def _end_epoch(self, progress: Progress) -> None:
        """Validates the averaged weights, keeps them if they are the best, prints a line."""
        loss = _mean_loss(self._losses)
        if (left_out := int(np.isnan(self._losses).sum())) and is_chief():
            console().print(
                f"  {counted(left_out, 'batch', 'batches')} of {len(self._losses)} left out, whose loss or gradients "
                "were not finite", style="yellow",
            )  # fmt: skip
        self._losses = []
        with self.weights.applied():
            found = self._validated(self.done // self.steps, loss, progress.seconds)
        progress.epoch(
            self.done,
            f"loss {loss:7.3f}  validation CER {found.rate:.4f}  (best {self.lowest_cer:.4f})",
            self._is_over(),
        )
        if self.train.is_warm and is_chief():
            self._tell_collapse(found)

    def _mix(self) -> None:
        """Puts a share of the start into the weights: what it knew stays (Wortsman et al. 2022, arXiv 2109.01903)."""
        share = self.train.start_share
        pairs = zip(self._start, self.best_weights, strict=True)
        self.weights.assign([share * a + (1.0 - share) * b if b.dtype.kind == "f" else b for a, b in pairs])
        found = self.validate()
        told = f"  {found.rate:.4f} with a share of {share:g} of the start's weights"
        # With few images the lowest of a hundred epochs is luck: what beats the epoch that is kept is no worse.
        if not self.train.start_share_checked or found.rate <= self.best_cer or self._is_kept(found):
            self.best_cer, self._best_collapse = found.rate, found.collapse
        else:
            self.weights.assign(self.best_weights)
            told += ": left out"
        if is_chief():
            console().print(told)

    def _validated(self, epoch: int, loss: float | None, seconds: float) -> Validation:
        """Validates the current weights and notes them in history, and among the best where they are."""
        found = self.validate()
        if self._is_kept(found):
            self.best_cer, self.best_epoch, self.best_weights = found.rate, epoch, self.weights.current()
            self._best_collapse = found.collapse
        if found.rate < self.lowest_cer:
            self.lowest_cer, self._lowest = found.rate, found.images
        self.history.append({
            "epoch": epoch, "loss": loss, "validation_cer": found.rate, "empty": found.empty,
            "learning_rate": float(self.optimizer.learning_rate), "seconds": seconds,
        })  # fmt: skip
        for name in ("loss", "validation_cer", "learning_rate"):
            if self.history[-1][name] is not None:
                tf.summary.scalar(name, self.history[-1][name], step=epoch)
        return found

    def _is_kept(self, found: Validation) -> bool:
        """Whether these weights replace those that are kept."""
        if not self.history or found.rate < self.lowest_cer:
            return True
        if found.collapse or (self.train.is_warm and found.rate >= self.history[0]["validation_cer"]):
            return False
        return not found.is_clearly_worse(self._lowest)

    def _tell_collapse(self, found: Validation) -> None:
        """Says once that a warm start has collapsed; from nothing, CTC reads nothing at first, which is no news."""
        if found.collapse and not self._told_collapse:
            self._told_collapse = True
            console().print(f"  {found.collapse}", style="yellow", markup=False)

    def _tell_end(self) -> None:
        """Says why training ended before its time, what a warm start has brought, and what to do about a collapse."""
        if self._patience_is_over() and self.done < self.total:
            console().print(
                f"  a clearly worse validation CER for {counted(self.schedule.patience, 'epoch')}: training stops here"
            )
        rate = self.schedule.learning_rate
        if self.train.is_warm and self.best_epoch == 0:
            console().print(
                f"  no epoch reads the validation images better than the base (CER {self.best_cer:.4f}): the weights "
                f"of the base are kept. Try a lower train.learning_rate (it is {rate:g}), or more labels.",
                style="yellow",
            )
        elif self.train.is_warm:
            base = self.history[0]["validation_cer"]
            console().print(
                f"  validation CER {base:.4f} with the base, {self.best_cer:.4f} after epoch {self.best_epoch}"
            )
        if self._best_collapse:
            told = advice_for_collapse(self._best_collapse, self.done, self.schedule.epochs, rate)
            console().print(f"  {told}", style="yellow", markup=False)

    def _recent_loss(self) -> float:
        return _mean_loss(self._losses[-_CHECKED:])

    def _is_broken(self) -> bool:
        """Whether the loss is mostly no longer finite, in which case a warm start ends and another training fails."""
        recent = np.array(self._losses[-_CHECKED:], np.float64)
        loss = float(np.mean(recent))
        if np.isnan(recent).mean() <= _LEFT_OUT:
            return False
        self._broken = (
            f"the training loss became {loss} in epoch {(self.done - 1) // self.steps + 1}: lower train.learning_rate "
            f"(it is {self.schedule.learning_rate:g})"
        )
        if not self.train.is_warm:
            raise FloatingPointError(self._broken)
        if is_chief():
            console().print(f"  {self._broken}; training stops here", style="yellow")
        return True

    def _is_over(self) -> bool:
        return self.done >= self.total or self._patience_is_over()

    def _patience_is_over(self) -> bool:
        return self.done // self.steps - self.best_epoch >= self.schedule.patience

    def _state(self) -> dict[str, list[Any]]:
        return {
            "model": self.model.variables, "optimizer": self.optimizer.variables, "averages": self.weights.state,
        }  # fmt: skip

    def _save(self, seconds: float) -> None:
        """Writes everything that `_restore` needs."""
        arrays = checkpoint.values_of(self._state())
        if not self.checkpoint or not is_chief():
            return
        arrays.update({f"best/{i}": value for i, value in enumerate(self.best_weights)})
        progress = {
            "done": self.done, "history": self.history, "best_cer": self.best_cer, "best_epoch": self.best_epoch,
            "lowest_cer": self.lowest_cer, "lowest": self._lowest, "best_collapse": self._best_collapse,
            "losses": [float(loss) for loss in self._losses], "seconds": seconds,
        }  # fmt: skip
        checkpoint.save(self.checkpoint, arrays, progress)

    def _restore(self) -> bool:
        state = checkpoint.load(self.checkpoint) if self.checkpoint else None
        if state is None:
            return False
        arrays, progress = state
        checkpoint.assign(self._state(), arrays)
        self.best_weights = [arrays[f"best/{i}"] for i in range(len(self.best_weights))]
        self.done, self.history, self._losses = progress["done"], progress["history"], progress["losses"]
        self.best_cer, self.best_epoch = progress["best_cer"], progress["best_epoch"]
        self.lowest_cer, self._lowest = progress["lowest_cer"], progress["lowest"]
        self._best_collapse, self._seconds_before = progress["best_collapse"], progress["seconds"]
        return True


def _mean_loss(losses: Sequence[float]) -> float:
    """The mean loss of batches without those that were left out; NaN of none."""
    taken = [loss for loss in map(float, losses) if not np.isnan(loss)]
    return float(np.mean(taken)) if taken else float("nan")
