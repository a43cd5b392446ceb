"""What is suggested for a model that is not blessed: the cause that the report knows of comes first."""

import dataclasses
import re

import pytest

from components.evaluator.verdict import Baseline, Failure
from components.report import analysis
from components.report.next_steps import next_steps
from components.trainer.schedule import epochs_for
from components.trainer.settings import TrainConfig
from pipeline.config import Config
from tests.components.report.report_material import material, split_of, table, without_plots, words

# Enough training images, and a CER that had stopped to fall: neither is a cause.
LEARNT = [{"epoch": i, "loss": 1.0, "validation_cer": 0.2, "seconds": 1.0 * i} for i in range(1, 9)]


def suggested(predictions, config=None, failures=(), **more):
    config = config or Config(gate={"max_cer": 0.01})
    made = material(predictions, config, **{"history": LEARNT, **more})
    verdict = dataclasses.replace(made.verdict, blessed=False, failures=list(failures))
    return next_steps(without_plots(dataclasses.replace(made, verdict=verdict)))


def read(count=300, rate=0.2, **more):
    """Predictions of a model that is sure of nothing: no label is suspect."""
    return table(words(count), rate=rate, **more).assign(confidence=0.3)


def emptied(count=200):
    predictions = table(words(count))
    predictions["prediction"], predictions["confidence"] = "", 0.1
    return analysis.count_edits(predictions.drop(columns=list(analysis.COUNT_COLUMNS)), compared=False)


def test_a_blessed_model_needs_none():
    assert next_steps(without_plots(material(table(words(200)), Config(gate={"max_cer": 0.9})))) == []


def test_collapse_is_named():
    first = suggested(emptied())[0]
    assert (
        first.startswith("The model collapsed: 200 of 200 images give an empty text") and "train.epochs=144" in first
    )  # three times as many
    made = material(emptied())
    settings = {**made.settings, "train": {**made.settings["train"], "warm_start": "base"}}
    (first, *_) = suggested(emptied(), settings=settings)
    assert "has damaged the model that it started from" in first and "train.learning_rate" in first


def test_labels_that_do_not_fit_name_the_preset():
    counts = {"accepted": {"train": 2000}, "rejected": {"label_too_long": 500}, "notes": []}
    (first, *_) = suggested(read(300, rate=0.2), counts=counts)
    assert first.startswith("500 of 2500 labels") and "transform.preset=line" in first
    line = {**material(table(words(20))).settings, "transform": {"preset": "line", "height": 64, "width": 1600}}
    (first, *_) = suggested(read(300, rate=0.2), settings=line, unalignable=300)
    assert "transform.width=3200" in first
    few = {"accepted": {"train": 2000}, "rejected": {"label_too_long": 5}, "notes": []}
    assert not any("too long" in step for step in suggested(read(300, rate=0.2), counts=few))


def test_more_epochs_where_the_error_was_still_falling():
    falling = [{**entry, "validation_cer": 1 / entry["epoch"]} for entry in LEARNT]
    assert "still falling after 8 epochs" in suggested(read(300, rate=0.2), history=falling)[0]
    assert not any("epochs" in step for step in suggested(read(300, rate=0.2)))


def test_few_epochs_are_not_called_falling():
    (first, *_) = suggested(read(300, rate=0.2), history=LEARNT[:2])
    assert first.startswith("Train for longer than 2 epochs.") and "falling" not in first


def test_more_epochs_are_no_fewer_than_a_training_from_that_start_gets_by_itself():
    made = material(read())
    train = {**made.settings["train"], "epochs": 2}
    usual = {}
    for start in (None, "htr/1"):
        settings = {**made.settings, "train": {**train, "warm_start": start}}
        (first, *_) = suggested(read(), history=LEARNT[:2], settings=settings)
        usual[start] = int(first.rsplit("train.epochs=", 1)[1].rstrip("."))
        images = made.splits["train"].samples
        assert usual[start] == epochs_for(TrainConfig(warm_start=start), images)
    assert 6 < usual["htr/1"] < usual[None]


def test_a_base_that_stays_the_best_asks_for_a_lower_learning_rate_not_for_more_epochs():
    base = {"epoch": 0, "loss": None, "validation_cer": 0.03, "seconds": 0.0}
    history = [base, *({**entry, "validation_cer": cer} for entry, cer in zip(LEARNT, (0.03, 0.04), strict=False))]
    settings = material(read()).settings
    kept = {**settings, "training": {"base_validation_cer": 0.03, "best_epoch": 0}}
    steps = suggested(read(), history=history, settings=kept)
    assert steps[0].startswith("No epoch was better than the model that the training started from")
    assert not any("longer" in step for step in steps)
    better = {**settings, "training": {"base_validation_cer": 0.03, "best_epoch": 2}}
    assert not any("No epoch" in step for step in suggested(read(), history=history, settings=better))


@pytest.mark.parametrize(("asked", "done", "longer"), [(1, 1, True), (47, 1, False), (8, 8, False)])
def test_a_base_that_stays_the_best_after_the_one_epoch_that_was_asked_for_asks_for_more(asked, done, longer):
    """Where a training ended by itself, or was given time, it is the learning rate."""
    base = {"epoch": 0, "loss": None, "validation_cer": 0.03, "seconds": 0.0}
    settings = {**_with_epochs(asked), "training": {"base_validation_cer": 0.03, "best_epoch": 0}}
    (first, *others) = suggested(read(), history=[base, *LEARNT[:done]], settings=settings)
    before = f"Train for longer than {done} epoch, before you lower train.learning_rate."
    assert first.startswith(before) == longer, "the verdict advises a lower rate"
    assert first.startswith("No epoch was better than the model") != longer
    assert not any("train.learning_rate" in step for step in others)


@pytest.mark.parametrize("epochs, more", [(2, 47), (100, 300)])
def test_no_fewer_epochs_than_the_number_of_images_asks_for(epochs, more):
    first, *_ = suggested(read(), history=LEARNT[:2], settings=_with_epochs(epochs))  # 2,000 training images
    assert first.endswith(f"For example train.epochs={more}.")


def _with_epochs(epochs):
    settings = material(read()).settings
    return {**settings, "train": {**settings["train"], "epochs": epochs}}


def test_suspect_labels_come_before_training():
    truths = words(400)
    labels = [*truths[:300], *truths[301:], truths[300]]  # a quarter of the rows is shifted
    steps = suggested(table(truths, labels=labels, rate=0.01))
    assert steps[0].startswith("Correct the suspect labels") and len(steps) <= 3


CHANGE = [Failure("cer", "all", 0.04, 0.005, "change", "version 17 (in service)")]


def test_worse_than_the_model_in_service():
    predictions = read(300, rate=0.2, baseline_rate=0.02)
    same = {**material(predictions).settings, "alphabet": list(material(predictions).alphabet)}
    assert "Start from the model in service: train.warm_start=models/17." in suggested(
        predictions, failures=CHANGE, baseline=same
    )
    other = {**same, "alphabet": ["ä", *same["alphabet"]]}
    (first, *_) = suggested(predictions, failures=CHANGE, baseline=other)
    assert "The alphabet of version 17 (in service) differs from" in first and "gate.baseline=none" in first


@pytest.mark.parametrize("bound, wide", [(0.08, True), (0.3, False)])
def test_a_wide_interval(bound, wide):
    predictions = read(60, rate=0.08)
    steps = suggested(predictions, Config(gate={"max_cer": bound}))
    assert any("the interval is wide with 60 images" in step for step in steps) == wide


@pytest.mark.parametrize("images, told", [(1, True), (20, True), (60, False)])
def test_images_too_few_for_the_bound(images, told):
    predictions = read(images, rate=0.0)
    steps = suggested(predictions, Config(gate={"max_cer": 0.1 if told else 0.04}))
    assert any(f"the interval is wide with {images} image" in step for step in steps)
    assert any("0.1 takes 29 at least, all of them right" in step for step in steps) == told


BOUND = Failure("cer_high", "all", 0.21, 0.1, "bound")
OTHER = Failure("wer_high", "all", 0.51, 0.4, "bound")


@pytest.mark.parametrize(
    ("before", "failures", "told"),
    [
        (0.4, [BOUND], True),
        (0.2, [BOUND], False),
        (None, [BOUND], False),
        (0.4, [BOUND, *CHANGE], False),
        (0.4, [OTHER], False),
    ],
    ids=["better", "no better", "alone", "worse than allowed", "another bound"],
)
def test_a_bound_that_keeps_what_is_better_out_can_ask_for_less(before, failures, told):
    predictions = read(300, rate=0.2, baseline_rate=before)
    steps = suggested(predictions, Config(gate={"max_cer": 0.1}), failures=failures)
    (found,) = [step for step in steps if step.startswith("Its CER is lower than that of")] or [None]
    assert (found is not None) == told
    if found:
        value = float(re.fullmatch(r".*gate\.max_cer=([\d.]+)\.", found).group(1))
        assert material(predictions).verdict.metrics["cer_high"] <= value <= 0.3


def test_five_images_do_not_show_that_the_model_before_was_worse():
    predictions = read(5, rate=0.0, baseline_rate=0.0)
    predictions["baseline"] = [text[:-1] for text in predictions["text"]]
    predictions = analysis.count_edits(predictions.drop(columns=list(analysis.COUNT_COLUMNS)), compared=True)
    steps = suggested(predictions, Config(gate={"max_cer": 0.1}), failures=[BOUND])
    assert not any(step.startswith("Its CER is lower") for step in steps)


def test_no_bound_is_raised_for_a_model_that_serves_nobody():
    gate = Config(gate={"max_cer": 0.1})
    for predictions in (emptied(), read(300, rate=0.97)):
        worse = predictions.assign(baseline="x" * 40)
        counted = analysis.count_edits(worse.drop(columns=list(analysis.COUNT_COLUMNS)), compared=True)
        steps = suggested(counted, gate, failures=[BOUND])
        assert not any("raise the bound" in step for step in steps)


def test_characters_that_cannot_be_seen_have_names():
    predictions = read()
    predictions.loc[0, "text"] += "\u00a0"
    alphabet = "".join(sorted({*"".join(predictions["text"]), *"".join(predictions["prediction"])} - {"\u00a0"}))
    missed = [Failure("cer_high", "all", 0.5, 0.1, "bound")]
    told = suggested(predictions, failures=missed, alphabet=alphabet)
    assert any("with the characters NBSP, which" in sentence for sentence in told)


def test_slices_few_images_and_nothing_at_all():
    missed = [Failure("cer", "writer = 7", 0.4, bound, "bound") for bound in (0.3, 0.2)]
    assert any("like those of writer = 7, which" in step for step in suggested(read(), failures=missed))
    assert suggested(read(300, rate=0.2)) == ["Look at the worst images in the report, under 'Where it fails'."]


@pytest.mark.parametrize("images, warm, label", [(300, "base", True), (300, None, False), (5000, "base", False)])
def test_few_labels_that_adapt_a_base_ask_for_unlabelled_images(images, warm, label):
    settings = material(read()).settings
    started = {**settings, "train": {**settings["train"], "warm_start": warm}}
    splits = {name: split_of(words(count), ["w"] * count) for name, count in (("train", images), ("eval", 300))}
    steps = suggested(read(), settings=started, splits=splits)
    assert any("htr label" in step and f"than {images}" in step for step in steps) == label


def test_texts_by_a_model_are_no_labels():
    counts = {"accepted": {"train": 2500}, "by_model": {"train": 2000}, "rejected": {}, "notes": []}
    splits = {name: split_of(words(count), ["w"] * count) for name, count in (("train", 2500), ("eval", 300))}
    assert any("500 training images are few" in step for step in suggested(read(), counts=counts, splits=splits))


def test_a_base_that_training_made_worse():
    predictions = read(300, rate=0.2, baseline_rate=0.02)
    made = material(predictions)
    verdict = dataclasses.replace(
        made.verdict, blessed=False, failures=CHANGE, compared_with=Baseline("warm_start", path="base")
    )
    same = {**made.settings, "alphabet": list(made.alphabet)}
    made = dataclasses.replace(made, verdict=verdict, baseline=same, history=LEARNT)
    (advice,) = [step for step in next_steps(without_plots(made)) if "train.learning_rate" in step]
    assert advice.startswith("The training has made the model that it started from worse")
    kept = {**made.settings, "training": {"base_validation_cer": 0.03, "best_epoch": 0}}
    kept_steps = next_steps(without_plots(dataclasses.replace(made, settings=kept)))
    (advice,) = [step for step in kept_steps if "train.learning_rate" in step]
    assert advice.startswith("No epoch was better"), "what reads worse is the language model, not the network"
