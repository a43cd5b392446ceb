"""The training of the line finder: windows of pages, loss, validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from components.common.ahead import ahead
from components.common.console import announced, console
from components.line_finder.augmentation import draw_window
from components.line_finder.data import LabelledPage
from components.line_finder.metric import FindLines, LineScore, score_pages
from components.line_finder.model import LineFinder, take_weights
from components.line_finder.preprocessing import local_ink, on_light_paper, scaled_ink
from components.line_finder.settings import STRIDE, LineFinderConfig, LineTrainingConfig
from components.line_finder.targets import draw_targets
from components.trainer.loop import Plan, TrainingLoop
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


class LineFitting(TrainingLoop):
    """The training of a line finder.

    Attributes:
        history: Epoch, loss, validation precision, recall and F1, seconds of each validation. After a warm start the
            first entry is epoch 0, the line finder that the training started from; its loss is null.
        best: Score of the weights that are kept, those of the best validation.
    """

    section = "line_training"

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
        """Prepares the training.

        Args:
            model: Network with random weights.
            config: Its sizes.
            training: Pages to learn from.
            validation: Pages to monitor the training with, of other documents.
            train: Optimiser, epochs, windows.
            checkpoint_dir: Where to save the state every now and then, and to look for one to go on from.
            start: Version whose weights the network starts from; None for its own.

        Raises:
            WarmStartError: The version has another network.
        """
        self.config, self.train = config, train
        if start is not None:
            take_weights(model, start)
        # A window is too small to tell a negative by.
        self.training = [replace(page, grey=on_light_paper(page.grey)) for page in training]
        self.validation = validation
        is_warm, windows = start is not None, len(training) * train.windows
        plan = Plan(
            epochs=train.epochs, steps=-(-windows // train.batch_size), images=windows,
            learning_rate=train.peak_rate(is_warm), average_steps=train.average_steps, is_warm=is_warm,
        )  # fmt: skip
        super().__init__(model, plan, train, checkpoint_dir)
        self.best = LineScore()
        self._find = finder(model, config)

    def take_best_so_far(self) -> bool:
        """Gives the network the best weights of a training that was interrupted; False where there are none yet."""
        found = self._restore() and bool(self.history)
        if found:
            self.weights.assign(self.best_weights)
        return found

    def validate(self) -> LineScore:
        """How well the current weights find the lines of the validation pages."""
        with announced("Finding the lines of the validation pages", after=20.0):
            return score_pages((page.lines, self._find(page.grey)) for page in self.validation)

    def _stream(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each batch follows from the seed and its number, wherever the training goes on."""
        return ahead(self._batch, range(self.done, self.plan.total), threads=1)

    def _batch(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Windows uint8 [n, h, w, 1] and their maps uint8 [n, h / 2, w / 2, 3]."""
        epoch, step = divmod(number, self.plan.steps)
        order = np.random.default_rng([_ORDER, self.train.seed, epoch]).permutation(self.plan.images)
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

    def _train(self, batch: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        windows, targets = batch
        ink = local_ink(tf.cast(windows, tf.float32))

        def losses() -> tuple[tf.Tensor, tf.Tensor]:
            loss = loss_of(self.model(ink, training=True), tf.cast(targets, tf.float32))
            return loss, loss

        return self._learn(losses)

    def _measure_start(self, progress: Progress) -> None:
        self._validated(0, None, progress.seconds)
        console().print(f"  before training: validation F1 {self.best.f1:.4f}")

    def _validates(self, epoch: int) -> bool:
        return epoch % self.train.validate_every == 0 or epoch == self.plan.epochs

    def _validated(self, epoch: int, loss: float | None, seconds: float) -> str:
        score = self.validate()
        if score.f1 > self.best.f1 or not self.history:
            self.best, self.best_epoch, self.best_weights = score, epoch, self.weights.current()
        self.history.append({
            "epoch": epoch, "loss": loss, "precision": score.precision, "recall": score.recall, "f1": score.f1,
            "seconds": seconds,
        })  # fmt: skip
        return f"validation F1 {score.f1:.4f}  (best {self.best.f1:.4f})"

    def _progress(self) -> dict[str, Any]:
        return {"best": [self.best.true, self.best.found, self.best.matched]}

    def _take_progress(self, progress: dict[str, Any]) -> None:
        self.best = LineScore(*progress["best"])
