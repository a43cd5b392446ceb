"""The training loop: windows of pages, averaged weights, validation, a state that survives a kill."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from components.common.ahead import ahead
from components.common.console import announced, console
from components.common.words import counted
from components.line_finder.augmentation import draw_window
from components.line_finder.data import LabelledPage
from components.line_finder.metric import FindLines, LineScore, score_pages
from components.line_finder.model import LineFinder, take_weights
from components.line_finder.preprocessing import local_ink, scaled_ink
from components.line_finder.settings import STRIDE, LineFinderConfig, LineTrainingConfig
from components.line_finder.targets import draw_targets
from components.trainer import checkpoint
from components.trainer.averaging import AveragedWeights
from components.trainer.fitting import WarmupCosine
from components.trainer.progress import Progress
from htr_client.pages import Line
from htr_client.pages.vectorising import find_lines

_LOSS_SCALE = 3.0  # of the cross entropy, beside the overlap
_ORDER, _WINDOW = range(2)  # first entries of the seeds of the random streams


def finder(model: LineFinder, config: LineFinderConfig) -> FindLines:
    """The way from a page to its lines, with a network that is in memory.

    Args:
        model: The network.
        config: Size of pages.

    Returns:
        A function from a page, uint8 [height, width], to lines in its pixels.
    """

    @tf.function(input_signature=[tf.TensorSpec([None, None, 1], tf.float32)], autograph=False, reduce_retracing=True)
    def maps_of(grey: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        ink, cells, scale = scaled_ink(grey, config)
        return tf.sigmoid(model(ink)[0, : cells[0], : cells[1]]), scale

    def find(grey: np.ndarray) -> tuple[Line, ...]:
        maps, scale = maps_of(grey[..., np.newaxis].astype(np.float32))
        return find_lines(maps.numpy(), float(scale), grey.shape[1], grey.shape[0])

    return find


def loss_of(logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Cross entropy and overlap (Milletari et al. 2016, arXiv 1606.04797): baselines are few cells among many.

    Args:
        logits: float32 [N, h, w, 3].
        targets: float32 [N, h, w, 3], 0 or 1.

    Returns:
        The loss float32 [], summed over the channels.
    """
    entropy = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(targets, logits), axis=[0, 1, 2])
    probabilities = tf.sigmoid(logits)
    both = tf.reduce_sum(probabilities * targets, axis=[0, 1, 2])
    either = tf.reduce_sum(probabilities + targets, axis=[0, 1, 2])
    return tf.reduce_sum(_LOSS_SCALE * entropy + 1.0 - (2.0 * both + 1.0) / (either + 1.0))


class LineFitting:
    """A training: what it has done so far, and how to go on.

    Attributes:
        model: The network; after `run` it has the averaged weights of the best validation.
        history: Epoch, loss, validation precision, recall and F1, seconds of each validation. After a warm start the
            first entry is epoch 0, the line finder that the training started from; its loss is null.
        best: Score of the best one.
        best_epoch: Epoch of the best one.
    """

    def __init__(
        self,
        model: LineFinder,
        config: LineFinderConfig,
        training: Sequence[LabelledPage],
        validation: Sequence[LabelledPage],
        train: LineTrainingConfig,
        checkpoint_dir: str | None = None,
        start: str | None = None,
    ):
        """Prepares the optimiser.

        Args:
            model: Network with random weights.
            config: Its sizes.
            training: Pages to learn from.
            validation: Pages to monitor the training with, of other documents.
            train: Optimiser, epochs, windows.
            checkpoint_dir: Where to save the state every now and then, and to look for one to go on from.
            start: Version whose weights the network starts from; None for its own.

        Raises:
            WarmStartError: That version has another network.
        """
        self.model, self.config, self.train, self.is_warm = model, config, train, start is not None
        if start is not None:
            take_weights(model, start)
        self.training, self.validation = training, validation
        self.images = len(training) * train.windows
        self.steps = -(-self.images // train.batch_size)
        self.total = train.epochs * self.steps
        self.checkpoint = os.path.join(checkpoint_dir, checkpoint.CHECKPOINT_FILE) if checkpoint_dir else None
        self.rate = train.peak_rate(self.is_warm)
        rate = WarmupCosine(self.rate, int(train.warmup_epochs * self.steps), self.total)
        self.optimizer = keras.optimizers.AdamW(rate, weight_decay=train.weight_decay, global_clipnorm=train.clip_norm)
        self.optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        self.optimizer.build(model.trainable_variables)
        self._weights = AveragedWeights(model, train.average_steps, self.is_warm)
        self._best_weights = self._weights.current()
        self.best, self.best_epoch = LineScore(), 0
        self.history: list[dict[str, Any]] = []
        self.done = 0
        self._losses: list[float] = []
        self._seconds_before = 0.0
        self._step = tf.function(self._training_step, autograph=False, reduce_retracing=True)
        self._find = finder(model, config)

    def run(self) -> None:
        """Trains to the last epoch.

        Raises:
            FloatingPointError: The loss is no longer finite. A warm start ends with its best weights instead.
        """
        if self._restore():
            console().print(
                f"  going on after {counted(self.done // self.steps, 'epoch')} and "
                f"{counted(self.done % self.steps, 'batch', 'batches')} of a training that was interrupted"
            )
        elif self.is_warm:
            self._note(0, None, 0.0)
            console().print(f"  before training: validation F1 {self.best.f1:.4f}")
        last_save = time.monotonic()
        with Progress(self.train.epochs, self.steps, self.images, self.done, self._seconds_before) as progress:
            for windows, targets in self._batches():
                self._losses.append(float(self._step(windows, targets)))
                if self._is_broken():
                    break
                self.done += 1
                progress.batch(self.done, lambda: float(np.mean(self._losses[-100:])))
                validated = self._validates()
                if validated:
                    self._end_epoch(progress)
                if validated or time.monotonic() - last_save > 60.0 * self.train.checkpoint_minutes:
                    self._save(progress.seconds)
                    last_save = time.monotonic()
        self._weights.assign(self._best_weights)

    def take_best_so_far(self) -> bool:
        """Gives the network the best weights of a training that was interrupted; False where there are none yet."""
        found = self._restore() and bool(self.history)
        if found:
            self._weights.assign(self._best_weights)
        return found

    def validate(self) -> LineScore:
        """How well the current weights find the lines of the validation pages."""
        with announced("Finding the lines of the validation pages", after=20.0):
            return score_pages((page.lines, self._find(page.grey)) for page in self.validation)

    def _training_step(self, windows: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        ink = local_ink(tf.cast(windows, tf.float32))
        with tf.GradientTape() as tape:
            loss = loss_of(self.model(ink, training=True), tf.cast(targets, tf.float32))
        variables = [variable.value for variable in self.model.trainable_variables]
        self.optimizer.apply(tape.gradient(loss, variables), self.model.trainable_variables)
        self._weights.update()
        return loss

    def _batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches that are left; each follows from the seed and its number, wherever training resumes."""
        return ahead(self._batch, range(self.done, self.total), threads=1)

    def _batch(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Windows uint8 [n, h, w, 1] and their maps uint8 [n, h / 2, w / 2, 3]."""
        epoch, step = divmod(number, self.steps)
        order = np.random.default_rng([_ORDER, self.train.seed, epoch]).permutation(self.images)
        rows, columns = self.train.window
        windows, targets = [], []
        for place in order[step * self.train.batch_size : (step + 1) * self.train.batch_size]:
            page = self.training[place % len(self.training)]
            rng = np.random.default_rng([_WINDOW, self.train.seed, epoch, int(place)])
            scale = min(self.config.longest / max(page.grey.shape), self.config.largest_scale)
            window = draw_window(page.grey, page.lines, (rows, columns), scale, self.train.augment, rng)
            windows.append(window.grey)
            targets.append(draw_targets(window.lines, 1 / STRIDE, rows // STRIDE, columns // STRIDE))
        return np.stack(windows)[..., np.newaxis], np.stack(targets)

    def _is_broken(self) -> bool:
        """Whether the loss is no longer finite, in which case a warm start ends and another training fails."""
        loss = self._losses[-1]
        if np.isfinite(loss):
            return False
        broken = (
            f"the training loss became {loss} in epoch {self.done // self.steps + 1}: lower "
            f"line_training.learning_rate (it is {self.rate:g})"
        )
        if not self.is_warm:
            raise FloatingPointError(broken)
        console().print(f"  {broken}; training stops here", style="yellow")
        return True

    def _validates(self) -> bool:
        """Whether an epoch has ended that is validated: every few, and the last one."""
        epoch, rest = divmod(self.done, self.steps)
        return not rest and (epoch % self.train.validate_every == 0 or self.done == self.total)

    def _end_epoch(self, progress: Progress) -> None:
        """Validates the averaged weights and prints a line."""
        epoch, loss = self.done // self.steps, float(np.mean(self._losses))
        self._losses = []
        with self._weights.applied():
            self._note(epoch, loss, progress.seconds)
        told = f"loss {loss:6.3f}  validation F1 {self.history[-1]['f1']:.4f}  (best {self.best.f1:.4f})"
        progress.epoch(self.done, told, self.done == self.total)

    def _note(self, epoch: int, loss: float | None, seconds: float) -> None:
        """Validates the current weights and keeps them if they are the best so far."""
        score = self.validate()
        if score.f1 > self.best.f1 or not self.history:
            self.best, self.best_epoch, self._best_weights = score, epoch, self._weights.current()
        self.history.append({
            "epoch": epoch, "loss": loss, "precision": score.precision, "recall": score.recall, "f1": score.f1,
            "seconds": seconds,
        })  # fmt: skip

    def _state(self) -> dict[str, list[Any]]:
        return {
            "model": self.model.variables, "optimizer": self.optimizer.variables, "averages": self._weights.state,
        }  # fmt: skip

    def _save(self, seconds: float) -> None:
        if not self.checkpoint:
            return
        arrays = checkpoint.values_of(self._state())
        arrays.update({f"best/{i}": value for i, value in enumerate(self._best_weights)})
        progress = {
            "done": self.done, "history": self.history, "losses": self._losses, "best_epoch": self.best_epoch,
            "best": [self.best.true, self.best.found, self.best.matched], "seconds": seconds,
        }  # fmt: skip
        checkpoint.save(self.checkpoint, arrays, progress)

    def _restore(self) -> bool:
        state = checkpoint.load(self.checkpoint) if self.checkpoint else None
        if state is None:
            return False
        arrays, progress = state
        checkpoint.assign(self._state(), arrays)
        self._best_weights = [arrays[f"best/{i}"] for i in range(len(self._best_weights))]
        self.done, self.history, self._losses = progress["done"], progress["history"], progress["losses"]
        self.best, self.best_epoch = LineScore(*progress["best"]), progress["best_epoch"]
        self._seconds_before = progress["seconds"]
        return True
