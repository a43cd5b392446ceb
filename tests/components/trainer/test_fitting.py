"""What a training does about numbers that are not finite, which weights it keeps, and when it stops."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from components.trainer import checkpoint, fitting
from components.trainer.fitting import Fitting
from components.trainer.input_pipeline import batches, survey
from components.trainer.model import build
from components.trainer.outcome import compare
from tests.components.toy import COLD, LINE, SMALL, fit, source_of
from tests.conftest import encode


@pytest.fixture
def float16():
    keras.mixed_precision.set_global_policy("mixed_float16")
    yield
    keras.mixed_precision.set_global_policy("float32")


def poison(monkeypatch, which):
    """Makes the images of those batches NaN for whose number `which` says so."""

    def poisoned(*args):
        def map_(number, batch):
            images = batch[0]["images"]
            return {**batch[0], "images": tf.where(which(number), np.nan, images)}, batch[1]

        return batches(*args).enumerate().map(map_)

    monkeypatch.setattr(fitting, "batches", poisoned)


@pytest.mark.parametrize("images", [3, 24, 45, 90, 270])
def test_a_few_images_of_different_widths_fill_their_batches(tmp_path, images):
    path = str(tmp_path / "train.gz")
    with tf.io.TFRecordWriter(path, "GZIP") as writer:
        for number in range(images):
            example = tf.train.Example()
            features = example.features.feature
            features["image_png"].bytes_list.value.append(encode(np.zeros((4, 40 + 37 * number % 300), np.uint8)))
            features["labels"].int64_list.value.append(0)
            features["id"].bytes_list.value.append(b"%d" % number)
            writer.write(example.SerializeToString())
    spec = {name: tf.io.FixedLenFeature([], tf.string) for name in ("image_png", "id")}
    source = survey([path], {**spec, "labels": tf.io.VarLenFeature(tf.int64)}, LINE, 16)
    fewest = -(-images // 16)
    assert source.samples == images and fewest <= source.steps(16) <= 1.1 * fewest
    assert len(source.bounds) >= min(fewest - 1, 3)


@pytest.mark.parametrize("policy", ["float32", pytest.param("mixed_float16", marks=pytest.mark.slow)])
def test_a_batch_whose_numbers_are_not_finite_changes_nothing(toy, monkeypatch, request, policy):
    source = source_of(toy)
    if policy == "mixed_float16":
        request.getfixturevalue("float16")
    fitting = Fitting(build(SMALL, 4, 32), source, source, ["a", "b", "c"], COLD)
    optimizer = fitting.optimizer
    if policy == "mixed_float16":
        optimizer.dynamic_scale.assign(16.0)  # nothing overflows
        optimizer = optimizer.inner_optimizer
    poison(monkeypatch, lambda number: number == 2)
    stream, changed, left_out = fitting._stream(), [], []
    variables = [*fitting.model.variables, *optimizer.variables, *fitting.weights.state]
    for _ in range(4):
        before = [variable.numpy() for variable in variables]
        left_out.append(bool(np.isnan(fitting._step(next(stream)))))
        changed.append(sum(bool((old != new.numpy()).any()) for old, new in zip(before, variables, strict=True)))
    if policy == "float32":  # in float16 the first layer loses what is no number, so that only gradients have it
        assert left_out == [False, False, True, False]
    assert changed[2] == 0 and min(changed[:2] + changed[3:]) > 0.9 * len(variables)
    assert int(optimizer.iterations) == 3


@pytest.mark.either_stack
@pytest.mark.slow
def test_a_batch_whose_numbers_are_not_finite_is_left_out_and_counted(toy, monkeypatch, capsys):
    train = COLD.model_copy(update={"epochs": 2})
    steps = source_of(toy).steps(train.batch_size)
    poison(monkeypatch, lambda number: number == 3)
    done = fit(source_of(toy), train)
    assert all(np.isfinite(value).all() for value in done.weights.current())
    first, second = (entry["loss"] for entry in done.history)
    assert second < first
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("left out") == 1 and f"1 batch of {steps} left out, whose loss or gradients" in told


@pytest.mark.either_stack
@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "epoch"),
    [(lambda number: number > 1, 1), (lambda number: number % 3 == 0, 2)],
    ids=["from the third batch on", "every third batch"],
)
def test_a_training_of_which_much_is_not_finite_fails(toy, monkeypatch, which, epoch):
    poison(monkeypatch, which)
    with pytest.raises(FloatingPointError, match=rf"nan in epoch {epoch}: lower train\.learning_rate"):
        fit(source_of(toy), COLD.model_copy(update={"epochs": 9}))


@pytest.mark.either_stack
@pytest.mark.slow
def test_one_batch_of_a_short_epoch_that_is_not_finite_ends_nothing(toy, monkeypatch):
    train = COLD.model_copy(update={"epochs": 5, "batch_size": 64})
    assert source_of(toy).steps(train.batch_size) < 5
    poison(monkeypatch, lambda number: number == 1)
    assert [entry["epoch"] for entry in fit(source_of(toy), train).history] == [1, 2, 3, 4, 5]


@pytest.mark.either_stack
@pytest.mark.slow
def test_a_training_of_a_few_steps_fails_when_one_of_them_is_not_finite(toy, monkeypatch):
    train = COLD.model_copy(update={"epochs": 2, "batch_size": 64})
    poison(monkeypatch, lambda number: number == 5)  # the last one
    with pytest.raises(FloatingPointError, match="nan in epoch 2"):
        fit(source_of(toy), train)


class Stepping(Fitting):
    """Takes its losses from `given` instead of training, and reads every image right."""

    given: list[float] = []  # noqa: RUF012

    def _stream(self):
        self._step = lambda _: tf.constant(self.given[self.done])
        return itertools.repeat(None)

    def validate(self):
        return compare(["ab"] * 10, ["ab"] * 10)


@pytest.mark.parametrize("warm_start", [None, "a base"])
@pytest.mark.parametrize("left_out", [1, 2])
def test_the_first_batches_of_a_training_that_are_not_finite_do_not_end_it(
    toy, monkeypatch, capsys, warm_start, left_out
):
    source = source_of(toy)
    train = COLD.model_copy(update={"epochs": 30, "patience": 30, "batch_size": source.samples})
    monkeypatch.setattr(Stepping, "given", [np.nan] * left_out + [1.0] * 30)
    found = fit(source, train.model_copy(update={"warm_start": warm_start, "start_share": 0.0}), Stepping)
    assert found.history[-1]["epoch"] == 30, "each epoch is one batch"
    assert "training stops here" not in capsys.readouterr().err


def test_a_resumed_training_knows_which_batches_were_left_out_before(toy, tmp_path, monkeypatch):
    class Killed(Stepping):
        def _is_over(self):
            return self.done == 2

    source = source_of(toy)
    train = COLD.model_copy(update={"batch_size": source.samples})
    monkeypatch.setattr(Stepping, "given", [np.nan] * 12)
    fit(source, train, Killed, checkpoint_dir=str(tmp_path))
    with pytest.raises(FloatingPointError, match="nan in epoch 3"):
        fit(source, train, Stepping, checkpoint_dir=str(tmp_path))


@pytest.mark.parametrize(("minutes", "saves"), [(5.0, [1, 30]), (1e-9, [*range(1, 31)])])
def test_short_epochs_get_no_checkpoint_of_their_own_but_for_the_first(toy, tmp_path, monkeypatch, minutes, saves):
    seen, save = [], checkpoint.save

    def noting(path, arrays, progress):
        seen.append(progress["done"])
        save(path, arrays, progress)

    monkeypatch.setattr(checkpoint, "save", noting)
    source = source_of(toy)
    settings = {"epochs": 30, "patience": 30, "batch_size": source.samples, "checkpoint_minutes": minutes}
    monkeypatch.setattr(Stepping, "given", [1.0] * 30)
    fit(source, COLD.model_copy(update=settings), Stepping, checkpoint_dir=str(tmp_path))
    assert seen == saves and checkpoint.load(str(tmp_path / checkpoint.CHECKPOINT_FILE))[1]["done"] == 30


@pytest.mark.either_stack
@pytest.mark.slow
def test_the_search_for_the_loss_scale_of_float16_is_no_broken_training(toy, float16, capsys):
    source = source_of(toy)
    fitting = Fitting(build(SMALL, 4, 32), source, source, ["a", "b", "c"], COLD.model_copy(update={"epochs": 1}))
    fitting.optimizer.dynamic_scale.assign(2.0**24)
    fitting.run()
    overflowed = fitting.done - int(fitting.optimizer.iterations)
    assert fitting.done == 24 and overflowed > 3, "more than a tenth, and three in a row"
    assert np.isfinite(fitting.history[0]["loss"])
    assert "left out" not in capsys.readouterr().err


@pytest.mark.slow
def test_gradients_that_overflow_without_a_loss_scale_break_a_training_in_float16(toy, float16, monkeypatch):
    source = source_of(toy)
    fitting = Fitting(build(SMALL, 4, 32), source, source, ["a", "b", "c"], COLD)
    fitting.optimizer.dynamic_scale.assign(1.0)
    monkeypatch.setattr(tf.linalg, "global_norm", lambda _: tf.constant(np.inf))
    with pytest.raises(FloatingPointError, match="nan in epoch 1"):
        fitting.run()


def told(data, wrong, kind=Fitting, **settings):
    """Trains for six epochs at most, with so many of 100 images wrong at each validation; also the weights at each."""

    class Told(kind):
        def validate(self):
            marked.append(self.weights.current()[0])
            edits = wrong[len(marked) - 1]
            return compare(["abcd"] * 100, [f"{number}" for number in range(edits)] + ["abcd"] * (100 - edits))

    marked = []
    source = source_of(data)
    train = {"epochs": 6, "patience": 3, "batch_size": source.samples, "average_epochs": 0.0} | settings
    fitting = Told(build(SMALL, 4, 32), source, source, ["a", "b", "c"], COLD.model_copy(update=train))
    fitting.run()
    return fitting, marked


@pytest.mark.either_stack
@pytest.mark.parametrize(
    ("wrong", "kept", "done"),
    [
        ([40, 20, 24, 22, 45, 44], 4, 6),  # of 100 images by epoch: 24 and 22 are no worse than 20, 45 is
        ([40, 20, 45, 45, 45, 45], 2, 5),  # three epochs without weights to keep: patience is over
        ([40, 40, 40, 40, 40, 40], 6, 6),
    ],
)
def test_the_last_epoch_that_is_not_clearly_worse_is_kept(toy, wrong, kept, done):
    fitting, marked = told(toy, wrong)
    assert (fitting.best_epoch, len(fitting.history)) == (kept, done)
    assert fitting.best_cer == fitting.history[kept - 1]["validation_cer"]
    assert fitting.lowest_cer == min(entry["validation_cer"] for entry in fitting.history)
    np.testing.assert_array_equal(fitting.weights.current()[0], marked[kept - 1])


@pytest.mark.parametrize(
    ("wrong", "done", "ended"),
    [
        ([20, 20, 20, 20, 20, 20, 20], 6, "epochs"),
        ([20, 22, 22, 22, 22, 22, 22], 6, "epochs"),
        ([20, 22, 45, 45, 45], 4, "patience"),
        ([20, 45, 45, 20, 45, 45, 45], 6, "epochs"),
        ([20, 100, 100, 100], 3, "patience"),
    ],
    ids=["ties", "hardly worse", "clearly worse", "clearly worse now and then", "nothing right"],
)
def test_epochs_that_are_not_clearly_worse_than_a_base_do_not_count_for_patience(
    toy, monkeypatch, capsys, wrong, done, ended
):
    monkeypatch.setattr(Stepping, "given", [1.0] * 6)
    fitting, _ = told(toy, wrong, Stepping, warm_start="a base", start_share=0.0)
    outcome = fitting.outcome()
    assert (fitting.best_epoch, outcome.epochs_done, outcome.ended) == (0, done, ended)
    stops = "a clearly worse validation CER for 3 epochs: training stops here" in " ".join(
        capsys.readouterr().err.split()
    )
    assert stops == (ended == "patience")
