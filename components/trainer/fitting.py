"""The training of the recogniser: CTC losses, validation, which weights are kept, early stopping."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from components.common.ahead import NETWORK_THREADS, ahead
from components.common.calibration import MOST_NUMBERS
from components.common.console import announced, console
from components.common.words import counted
from components.trainer.accelerators import is_chief
from components.trainer.clean_statistics import BATCHES, move_statistics
from components.trainer.input_pipeline import Source, batches, divisible, plain_batches
from components.trainer.loop import Plan, TrainingLoop
from components.trainer.model import Recogniser, ctc_loss
from components.trainer.outcome import Outcome, Validation, advice_for_collapse, compare, still_falling
from components.trainer.progress import Progress
from components.trainer.schedule import schedule_for
from components.trainer.settings import TrainConfig
from components.trainer.transfer import mixture
from htr_client.decoding import Alphabet, BestPath

_FIRST = 1024  # images of a split that tell of it
_BATCH = 16


class Seen(NamedTuple):
    """What a network sees in a batch: log probabilities float32 [N, T, C], frames int32 [N]; and the labels."""

    log_probs: np.ndarray
    frames: np.ndarray
    labels: list[str]


def log_probs_of(model: Recogniser) -> Callable[[dict[str, tf.Tensor]], tuple[tf.Tensor, tf.Tensor]]:
    """A traced function from a batch's inputs to log probabilities float32 [N, T, C] and frames int32 [N].

    Args:
        model: The network.
    """

    def log_probs(inputs: dict[str, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        outputs = model(inputs, training=False)
        return tf.nn.log_softmax(outputs["logits"]), outputs["frames"]

    # Traced once: batches differ in size and width.
    images = tf.TensorSpec([None, model.height, None, 1])
    signature = [{"images": images, "widths": tf.TensorSpec([None], tf.int32)}]
    return tf.function(log_probs, input_signature=signature, autograph=False)


def read_images(
    log_probs: Callable[[dict[str, tf.Tensor]], tuple[tf.Tensor, tf.Tensor]], images: tf.data.Dataset
) -> Iterator[Seen]:
    """What a network sees in images, several batches at once.

    Args:
        log_probs: Function of `log_probs_of`.
        images: Batches of `plain_batches`.

    Yields:
        What it sees in each batch.
    """

    def read(batch: tuple[dict[str, tf.Tensor], tf.Tensor]) -> list[np.ndarray]:
        return [part.numpy() for part in (*log_probs(batch[0]), batch[1])]

    for found, frames, labels in ahead(read, images, NETWORK_THREADS):
        yield Seen(found, frames, [label.decode() for label in labels])


def read_first(
    log_probs: Callable[[dict[str, tf.Tensor]], tuple[tf.Tensor, tf.Tensor]], source: Source
) -> Iterator[Seen]:
    """What a network sees in the first images of a split: `_FIRST`, or those that have `MOST_NUMBERS`.

    Args:
        log_probs: Function of `log_probs_of`.
        source: The split.

    Yields:
        What it sees in each batch.
    """
    numbers = 0
    for seen in read_images(log_probs, plain_batches(source, _BATCH).take(_FIRST // _BATCH)):
        yield seen
        numbers += seen.log_probs.size
        if numbers > MOST_NUMBERS:
            return


def validation_of(
    log_probs: Callable[[dict[str, tf.Tensor]], tuple[tf.Tensor, tf.Tensor]],
    source: Source,
    alphabet: Alphabet,
    batch_size: int,
) -> Validation:
    """How a network transcribes a whole split, by the best path.

    Args:
        log_probs: Function of `log_probs_of`.
        source: The split.
        alphabet: Characters of its classes.
        batch_size: Images that are read at once.
    """
    texts: list[str] = []
    predictions: list[str] = []
    with announced("Reading the validation images", after=20.0) if is_chief() else nullcontext():
        for found, frames, labels in read_images(log_probs, plain_batches(source, batch_size)):
            texts += labels
            predictions += [result.text for result in BestPath().decode(found, frames, alphabet)]
    return compare(texts, predictions)


class Fitting(TrainingLoop):
    """The training of a recogniser.

    It keeps the weights of the last epoch that transcribes the validation images not clearly worse than the epoch with
    the lowest CER (`outcome.Validation.is_clearly_worse`): the validation split is a few writers, and later weights
    transcribe others better (docs/experiments.md). The start of a warm start is validated before the first optimiser
    step, and is kept unless an epoch has a lower CER: a training that only damages ends where it began. A share of its
    weights is put into those of the epoch that was kept (`train.start_share`), unless such weights would not be kept
    (`train.start_share_checked`). Then its normalisation may be fitted to images as they are
    (`train.clean_statistics`).

    Attributes:
        schedule: Epochs, patience and learning rate, with what the configuration leaves open filled in.
        history: Entries of all epochs; `outcome.Outcome` lists what they hold.
        best_cer: Validation CER of the weights that are kept.
        lowest_cer: Lowest validation CER of all epochs.
    """

    section = "train"

    def __init__(
        self,
        model: Recogniser,
        training: Source,
        validation: Source,
        alphabet: Sequence[str],
        train: TrainConfig,
        checkpoint_dir: str | None = None,
        strategy: tf.distribute.Strategy | None = None,
        new: Sequence[int] = (),
    ):
        """Prepares the training.

        Args:
            model: Network with initial weights, those of the start where `train.warm_start` is set.
            training: Images to learn from.
            validation: Images to monitor the training with.
            alphabet: Characters of the classes.
            train: Optimiser, epochs, batches.
            checkpoint_dir: Where to save the state every now and then, and to look for one to go on from.
            strategy: Within whose scope the model was made; None on one device.
            new: Classes that the start does not know.
        """
        self.training, self.validation, self.train = training, validation, train
        self.alphabet = Alphabet(alphabet)
        self.schedule = schedule_for(train, training.samples)
        steps = training.steps(train.batch_size)
        plan = Plan(
            epochs=self.schedule.epochs, steps=steps, images=training.samples,
            learning_rate=self.schedule.learning_rate, average_steps=train.average_epochs * steps,
            is_warm=train.is_warm,
        )  # fmt: skip
        super().__init__(model, plan, train, checkpoint_dir, strategy)
        self.best_cer, self.lowest_cer = float("inf"), float("inf")
        self._lowest: Sequence[tuple[int, int]] = []
        self._not_worse = 0  # the last epoch that was not clearly worse than the lowest CER
        self._newest: Validation | None = None
        self._best_collapse: str | None = None
        self._start, self._new = self.best_weights, list(new)
        self._told_collapse = False
        self.log_probs = log_probs_of(model)

    def run(self, log_dir: str | None = None) -> None:
        """Trains to the last epoch, or until validation has been clearly worse for as many epochs as patience lasts.

        Args:
            log_dir: Directory for TensorBoard.

        Raises:
            FloatingPointError: The loss is no longer finite. A warm start ends with its best weights instead.
        """
        writer = tf.summary.create_file_writer(log_dir) if log_dir and is_chief() else tf.summary.create_noop_writer()
        with writer.as_default():
            super().run()
        if is_chief():
            self._tell_end()
        if self.train.is_warm and self.train.start_share and self.best_epoch:
            self._mix()
        if self.train.clean_statistics and self.train.augment and self.best_epoch:
            self._move_statistics()

    def outcome(self, device: str = "") -> Outcome:
        """Facts about the training that has been run.

        Args:
            device: What it ran on.
        """
        at_start = self.history[0]["validation_cer"] if self.train.is_warm else None
        ended = "loss" if self.broken else "epochs" if self.done >= self.plan.total else "patience"
        return Outcome(
            images=self.training.samples, validation_images=self.validation.samples, epochs=self.schedule.epochs,
            epochs_done=self.done // self.plan.steps, steps=self.done, best_epoch=self.best_epoch,
            best_validation_cer=self.best_cer, base_validation_cer=at_start, ended=ended,
            still_falling=ended == "epochs" and still_falling(self.history), collapse=self._best_collapse,
            device=device, seconds=self.history[-1]["seconds"],
        )  # fmt: skip

    def validate(self) -> Validation:
        """How the current weights transcribe the validation split."""
        return validation_of(self.log_probs, self.validation, self.alphabet, self.train.batch_size)

    def _stream(self) -> Iterator[Any]:
        dataset = batches(self.training, self.train, self.schedule.epochs, self.done)
        if self.strategy.num_replicas_in_sync > 1:
            dataset = divisible(dataset, self.strategy.num_replicas_in_sync)
            options = tf.data.Options()
            options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
            dataset = self.strategy.experimental_distribute_dataset(dataset.with_options(options))
        # Traced for batches of all shapes: the graph for the shapes of the first one is seldom used again.
        self._step = tf.function(self._train, input_signature=[dataset.element_spec], autograph=False)
        return iter(dataset)

    def _train(self, batch: Any) -> tf.Tensor:
        losses = self.strategy.run(self._train_replica, args=batch)
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)

    def _train_replica(self, inputs: dict[str, tf.Tensor], labels: tf.Tensor) -> tf.Tensor:
        """One step on a replica's share of a batch; returns the share's part of the mean loss."""
        share = 1.0 / self.strategy.num_replicas_in_sync

        def losses() -> tuple[tf.Tensor, tf.Tensor]:
            outputs = self.model(inputs, training=True)
            loss = tf.reduce_mean(ctc_loss(labels, outputs["logits"], outputs["frames"]))
            shortcut = tf.reduce_mean(ctc_loss(labels, outputs["shortcut_logits"], outputs["frames"]))
            return loss * share, (loss + self.train.shortcut * shortcut) * share

        return self._learn(losses)

    def _measure_start(self, progress: Progress) -> None:
        self._validated(0, None, progress.seconds)
        if is_chief():
            console().print(f"  epoch   0/{self.plan.epochs}  the start     validation CER {self.best_cer:.4f}")
        self._tell_collapse()

    def _end_epoch(self, progress: Progress) -> None:
        super()._end_epoch(progress)
        if self.train.is_warm:
            self._tell_collapse()

    def _mix(self) -> None:
        """Puts a share of the start into the weights: what it knew stays."""
        share = self.train.start_share
        self.weights.assign(mixture(self.model, self._start, self.best_weights, share, self._new))
        told = f"with a share of {share:g} of the start's weights"
        self._keep_or_take_back(self.best_weights, self.train.start_share_checked, told)

    def _move_statistics(self) -> None:
        """Lets normalisation fit images as they are."""
        share, before = self.train.clean_statistics, self.weights.current()
        plain = self.train.model_copy(update={"augment": 0.0})
        move_statistics(self.model, batches(self.training, plain).take(BATCHES), share)
        self._keep_or_take_back(before, True, f"with {share:g} of the statistics of images as they are")

    def _keep_or_take_back(self, before: Sequence[np.ndarray], is_checked: bool, told: str) -> None:
        """Measures weights that were changed after the training, and goes back to those before if they are worse."""
        found = self.validate()
        # With few images the lowest of a hundred epochs is luck: what beats the epoch that is kept is no worse.
        is_kept = found.rate <= self.best_cer or self._is_kept(found, self._is_clearly_worse(found))
        if is_kept or not is_checked:
            self.best_cer, self._best_collapse = found.rate, found.collapse
        else:
            self.weights.assign(before)
            told += ": left out"
        if is_chief():
            console().print(f"  {found.rate:.4f} {told}")

    def _validated(self, epoch: int, loss: float | None, seconds: float) -> str:
        self._newest = found = self.validate()
        is_worse = self._is_clearly_worse(found)
        if not is_worse:
            self._not_worse = epoch
        if self._is_kept(found, is_worse):
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
        return f"validation CER {found.rate:.4f}  (best {self.lowest_cer:.4f})"

    def _is_clearly_worse(self, found: Validation) -> bool:
        return bool(self.history) and found.is_clearly_worse(self._lowest)

    def _is_kept(self, found: Validation, is_clearly_worse: bool) -> bool:
        """Whether these weights replace those that are kept."""
        if not self.history or found.rate < self.lowest_cer:
            return True
        if found.collapse or (self.train.is_warm and found.rate >= self.history[0]["validation_cer"]):
            return False
        return not is_clearly_worse

    def _tell_collapse(self) -> None:
        """Says once that a warm start has collapsed; from nothing, CTC reads nothing at first, which is no news."""
        if self._newest and self._newest.collapse and not self._told_collapse and is_chief():
            self._told_collapse = True
            console().print(f"  {self._newest.collapse}", style="yellow", markup=False)

    def _tell_end(self) -> None:
        """Says why training ended before its time, what a warm start has brought, and what to do about a collapse."""
        if self._patience_is_over() and self.done < self.plan.total:
            console().print(
                f"  a clearly worse validation CER for {counted(self.schedule.patience, 'epoch')}: training stops here"
            )
        rate = self.schedule.learning_rate
        if self.train.is_warm and self.best_epoch == 0:
            console().print(
                f"  no epoch transcribes the validation images better than the start (CER {self.best_cer:.4f}): the "
                f"weights of the start are kept. Try a lower train.learning_rate (it is {rate:g}), or more labels.",
                style="yellow",
            )
        elif self.train.is_warm:
            at_start = self.history[0]["validation_cer"]
            console().print(
                f"  validation CER {at_start:.4f} with the start, {self.best_cer:.4f} after epoch {self.best_epoch}"
            )
        if self._best_collapse:
            told = advice_for_collapse(self._best_collapse, self.done, self.schedule.epochs, rate)
            console().print(f"  {told}", style="yellow", markup=False)

    def _is_over(self) -> bool:
        return super()._is_over() or self._patience_is_over()

    def _patience_is_over(self) -> bool:
        """Whether so many epochs in a row were clearly worse; one that is merely not kept is not."""
        return self.done // self.plan.steps - self._not_worse >= self.schedule.patience

    def _progress(self) -> dict[str, Any]:
        return {
            "best_cer": self.best_cer, "lowest_cer": self.lowest_cer, "lowest": self._lowest,
            "best_collapse": self._best_collapse, "not_worse": self._not_worse,
        }  # fmt: skip

    def _take_progress(self, progress: dict[str, Any]) -> None:
        self.best_cer, self.lowest_cer = progress["best_cer"], progress["lowest_cer"]
        self._lowest, self._best_collapse = progress["lowest"], progress["best_collapse"]
        self._not_worse = progress["not_worse"]
