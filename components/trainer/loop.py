"""The training loop: optimiser, averaged weights, batches that are left out, a state that survives a kill."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from components.common.console import announced, console
from components.common.words import counted
from components.trainer import checkpoint
from components.trainer.accelerators import is_chief
from components.trainer.averaging import AveragedWeights
from components.trainer.devices import worker_count
from components.trainer.progress import Progress
from components.trainer.settings import LoopConfig

# Batches after which the loss is looked at within an epoch: the same ones on every worker, so that all stop together.
_CHECKED = 100
# A training is broken when more than a tenth of its last hundred batches are left out, or the last three; one that is
# over with fewer batches, when more than a tenth of all are.
_MOST_LEFT_OUT, _IN_A_ROW = 0.1, 3
# Share of `checkpoint_minutes` after which the end of an epoch is worth a checkpoint; a short epoch takes less time.
_EARLY = 0.05


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


@dataclass(frozen=True)
class Plan:
    """What a training is going to do.

    Attributes:
        epochs: How many, at most.
        steps: Batches of an epoch.
        images: Images of an epoch.
        learning_rate: Its peak.
        average_steps: Span of the moving average of the weights, in optimiser steps.
        is_warm: Whether the weights at the start are those of another version.
    """

    epochs: int
    steps: int
    images: int
    learning_rate: float
    average_steps: float
    is_warm: bool

    @property
    def total(self) -> int:
        """Optimiser steps of all epochs."""
        return self.epochs * self.steps


class TrainingLoop(ABC):
    """A training: what it has done so far, and how to go on. A subclass knows batches, loss and validation.

    A batch whose loss or gradients are not finite changes neither weights nor optimiser nor averages, but for the loss
    scale of float16; such batches are counted. In bfloat16 on a processor with AMX there was one in some 1,500. In
    float16 the first batches serve to find the loss scale: gradients that overflow lower it, and count only where it is
    1 already.

    Attributes:
        section: Section of the configuration that holds `learning_rate`.
        model: The network; after `run` it has the weights that were kept.
        plan: What is to be done.
        weights: Its weights, and their moving averages.
        history: An entry for each validation, the first one of epoch 0 after a warm start.
        best_epoch: Epoch whose weights are kept, 0 for those of the start.
        best_weights: These weights.
        done: Batches so far.
        broken: Why the training ended before its time, where the loss was no longer finite.
    """

    section: ClassVar[str]

    def __init__(
        self,
        model: keras.Model,
        plan: Plan,
        settings: LoopConfig,
        checkpoint_dir: str | None = None,
        strategy: tf.distribute.Strategy | None = None,
    ):
        """Prepares the optimiser.

        Args:
            model: Network with the weights that it starts from.
            plan: What is to be done.
            settings: Settings of optimiser and checkpoints.
            checkpoint_dir: Where to save the state every now and then, and to look for one to go on from.
            strategy: Within whose scope the model was made; None on one device.
        """
        self.model, self.plan = model, plan
        self.strategy = strategy or tf.distribute.get_strategy()
        self.checkpoint = os.path.join(checkpoint_dir, checkpoint.CHECKPOINT_FILE) if checkpoint_dir else None
        self._checkpoint_seconds = 60.0 * settings.checkpoint_minutes
        # Workers save together, so that none may go by its own clock.
        self._early_seconds = 0.0 if worker_count() > 1 else _EARLY * self._checkpoint_seconds
        rate = WarmupCosine(plan.learning_rate, int(settings.warmup_epochs * plan.steps), plan.total)
        with self.strategy.scope():
            self.optimizer = keras.optimizers.AdamW(
                rate, weight_decay=settings.weight_decay, global_clipnorm=settings.clip_norm
            )
            self.optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
            if keras.mixed_precision.dtype_policy().compute_dtype == "float16":
                self.optimizer = keras.mixed_precision.LossScaleOptimizer(self.optimizer)
            self.optimizer.build(model.trainable_variables)
        self.weights = AveragedWeights(model, plan.average_steps, plan.is_warm)
        self.history: list[dict[str, Any]] = []
        self.best_epoch, self.best_weights = 0, self.weights.current()
        self.done = 0
        self._losses: list[Any] = []
        self._recent: deque[Any] = deque(maxlen=_CHECKED)
        self.broken: str | None = None
        self._seconds_before = 0.0
        self._step = tf.function(self._train, autograph=False, reduce_retracing=True)

    def run(self) -> None:
        """Trains until it is over, and gives the network the weights that were kept.

        Raises:
            FloatingPointError: The loss is no longer finite. A warm start ends with its best weights instead.
        """
        plan = self.plan
        if self._restore():
            console().print(
                f"  going on after {counted(self.done // plan.steps, 'epoch')} and "
                f"{counted(self.done % plan.steps, 'batch', 'batches')} of a training that was interrupted"
            )
        last_save, saved = time.monotonic(), False
        sizes = (plan.epochs, plan.steps, plan.images)
        with Progress(*sizes, self.done, self._seconds_before, is_chief()) as progress:
            if plan.is_warm and not self.history:
                self._measure_start(progress)
            stream = self._stream()
            first = announced("Building the network's graph") if is_chief() else nullcontext()
            while not self._is_over():
                with first:
                    loss = self._step(next(stream))
                self._losses.append(loss)
                self._recent.append(loss)
                first = nullcontext()
                self.done += 1
                progress.batch(self.done, lambda: _mean(self._recent))
                ended = self.done % plan.steps == 0
                if (ended or len(self._losses) % _CHECKED == 0) and self._is_broken():
                    break
                validates = ended and self._validates(self.done // plan.steps)
                if validates:
                    self._end_epoch(progress)
                seconds = time.monotonic() - last_save
                is_early = validates and (not saved or seconds >= self._early_seconds or self._is_over())
                if is_early or seconds > self._checkpoint_seconds:
                    self._save(progress.seconds)
                    last_save, saved = time.monotonic(), True
        self.weights.assign(self.best_weights)

    @abstractmethod
    def _stream(self) -> Iterator[Any]:
        """The batches that are left, wherever the training goes on."""

    @abstractmethod
    def _train(self, batch: Any) -> tf.Tensor:
        """One optimiser step on a batch, by way of `_learn`; returns the loss, NaN where the step was left out."""

    @abstractmethod
    def _measure_start(self, progress: Progress) -> None:
        """Validates the weights of a warm start as epoch 0, and tells how good they are."""

    @abstractmethod
    def _validated(self, epoch: int, loss: float | None, seconds: float) -> str:
        """Validates the current weights, notes them in the history and keeps them if they are to be kept.

        Returns:
            What the line of the epoch says about them.
        """

    @abstractmethod
    def _progress(self) -> dict[str, Any]:
        """What a subclass has to know to go on, beside the weights, as JSON holds it."""

    @abstractmethod
    def _take_progress(self, progress: dict[str, Any]) -> None:
        """Takes what `_progress` has returned."""

    def _validates(self, epoch: int) -> bool:
        """Whether an epoch that has ended is validated."""
        return True

    def _is_over(self) -> bool:
        return self.done >= self.plan.total

    def _learn(self, losses: Callable[[], tuple[tf.Tensor, tf.Tensor]]) -> tf.Tensor:
        """One step of the optimiser, on one replica.

        Args:
            losses: Runs the network; returns the loss that is told and the one that is minimised.

        Returns:
            The loss that is told; NaN where it or a gradient of any replica is not finite and the step was left out.
            Where only the gradients have overflowed in float16, which lowers the loss scale, it is the loss.
        """
        statistics = [v.value for v in self.model.non_trainable_variables if v.dtype == "float32"]
        before = [tf.identity(variable) for variable in statistics]
        with tf.GradientTape() as tape:
            loss, minimised = losses()
            scaled = self.optimizer.scale_loss(minimised)
        gradients = tape.gradient(scaled, [variable.value for variable in self.model.trainable_variables])
        # Replicas decide together: gradients and statistics of one of them reach all.
        has_loss, has_gradients = _all_true(
            tf.math.is_finite(loss) & tf.math.is_finite(minimised), tf.math.is_finite(tf.linalg.global_norm(gradients))
        )
        finite = has_loss & has_gradients
        for variable, value in zip(statistics, before, strict=True):
            variable.assign(tf.where(finite, variable, value))
        is_told = finite
        if isinstance(self.optimizer, keras.mixed_precision.LossScaleOptimizer):
            is_told |= has_loss & (self.optimizer.dynamic_scale > 1.0)
            # It leaves the step out itself and lowers the scale, but looks at the first replica only.
            gradients = [tf.where(finite, gradient, np.inf) for gradient in gradients]
        loss = tf.where(is_told, loss, np.nan)
        tf.distribute.get_replica_context().merge_call(self._apply, args=(gradients, finite))
        return loss

    def _apply(self, strategy: tf.distribute.Strategy, gradients: list[Any], finite: Any) -> None:
        """Takes a step with the gradients of all replicas, and into the averages, where they are finite."""
        finite = strategy.experimental_local_results(finite)[0]

        def optimise() -> None:
            strategy.extended.call_for_each_replica(
                self.optimizer.apply, args=(gradients, self.model.trainable_variables)
            )

        # A branch that updates mirrored variables must not begin on a replica, hence `merge_call`.
        if isinstance(self.optimizer, keras.mixed_precision.LossScaleOptimizer):
            optimise()
            tf.cond(finite, self.weights.update, lambda: None)
            return

        def step() -> None:
            optimise()
            self.weights.update()

        tf.cond(finite, step, lambda: None)

    def _end_epoch(self, progress: Progress) -> None:
        """Validates the averaged weights and prints a line; counts what was left out."""
        loss = _mean(self._losses)
        if (left_out := int(np.isnan(self._losses).sum())) and is_chief():
            console().print(
                f"  {counted(left_out, 'batch', 'batches')} of {len(self._losses)} left out, whose loss or gradients "
                "were not finite", style="yellow",
            )  # fmt: skip
        self._losses = []
        with self.weights.applied():
            told = self._validated(self.done // self.plan.steps, loss, progress.seconds)
        progress.epoch(self.done, f"loss {loss:7.3f}  {told}", self._is_over())

    def _is_broken(self) -> bool:
        """Whether the loss is no longer finite, not just once, which ends a warm start and fails another training."""
        left_out = np.isnan(np.array(self._recent, np.float64))
        is_short = self.done >= self.plan.total < _CHECKED
        most = _MOST_LEFT_OUT * (self.plan.total if is_short else _CHECKED)
        in_a_row = left_out[-_IN_A_ROW:]
        if left_out.sum() <= most and not (len(in_a_row) == _IN_A_ROW and in_a_row.all()):
            return False
        self.broken = (
            f"the training loss became nan in epoch {(self.done - 1) // self.plan.steps + 1}: lower "
            f"{self.section}.learning_rate (it is {self.plan.learning_rate:g})"
        )
        if not self.plan.is_warm:
            raise FloatingPointError(self.broken)
        if is_chief():
            console().print(f"  {self.broken}; training stops here", style="yellow")
        return True

    def _state(self) -> dict[str, list[Any]]:
        return {
            "model": self.model.variables, "optimizer": self.optimizer.variables, "averages": self.weights.state,
        }  # fmt: skip

    def _save(self, seconds: float) -> None:
        """Writes everything that `_restore` needs. Every worker takes part in reading the variables."""
        if not self.checkpoint:
            return
        arrays = checkpoint.values_of(self._state())
        if not is_chief():
            return
        arrays.update({f"best/{i}": value for i, value in enumerate(self.best_weights)})
        progress = self._progress() | {
            "done": self.done, "history": self.history, "best_epoch": self.best_epoch,
            "losses": [float(loss) for loss in self._losses], "recent": [float(loss) for loss in self._recent],
            "seconds": seconds,
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
        self._recent.extend(progress["recent"])
        self.best_epoch, self._seconds_before = progress["best_epoch"], progress["seconds"]
        self._take_progress(progress)
        return True


def _mean(losses: Iterable[Any]) -> float:
    """The mean loss of batches without those that were left out; NaN of none."""
    taken = [loss for loss in map(float, losses) if not np.isnan(loss)]
    return float(np.mean(taken)) if taken else float("nan")


def _all_true(*flags: tf.Tensor) -> list[tf.Tensor]:
    """For each flag whether it is true on all replicas; to be called on each of them."""
    context = tf.distribute.get_replica_context()
    false = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack([tf.cast(~flag, tf.float32) for flag in flags]))
    return tf.unstack(false == 0.0)
