"""A warm start is compared with its base: it may learn, and it cannot end worse than it began."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from tfx.utils import json_utils

from components.base_model import packing
from components.common.versions import kept_start
from components.evaluator.baseline import find
from components.trainer import accelerators, training, transfer, tuning
from components.trainer.component import Driver
from components.trainer.fitting import Fitting
from components.trainer.input_pipeline import survey
from components.trainer.model import build
from components.trainer.outcome import compare
from components.trainer.schedule import RATE
from components.trainer.settings import AUTO, ModelConfig, TrainConfig, TuneConfig
from components.trainer.warm_start import WarmStartError, settled
from components.transform import preprocessing
from components.transform.settings import TransformConfig
from serving.version_directory import CARD_FILE
from tests.components.toy import COLD, SMALL, TRAIN, WORDS, arguments, source_of, write_transformed

pytestmark = pytest.mark.slow  # networks are trained

WORD = TransformConfig()
ABSURD = 500 * RATE


@pytest.fixture(scope="module")
def base(toy_model):
    """The directory of a model that reads the toy script well."""
    return str(toy_model)


@pytest.fixture
def shipped(base, tmp_path, monkeypatch):
    """That model as the base model for words; the folder of its files."""
    version = tmp_path / "made" / "7"
    shutil.copytree(base, version)
    version.with_name(f"7.{CARD_FILE}").write_text("# Model card")
    monkeypatch.setattr(packing, "FOLDER", tmp_path / "files")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return packing.pack(str(version), "word")


def run(data, out, train):
    """Trains; returns the history and the model's settings."""
    given = arguments(data, out, train, WORD)
    training.run_fn(SimpleNamespace(**given))
    history = json.loads((out / "run" / training.HISTORY_FILE).read_text())
    return history, settings_of(out / "model")


def settings_of(model):
    return json.loads(Path(model, "assets.extra", "htr.json").read_text())


def warm(base, **settings):
    return TRAIN.model_copy(update={"warm_start": base, **settings})


def validation_cer(data, model_dir):
    """CER of an exported model's weights on the toy script."""
    tft_output = tft.TFTransformOutput(str(data / "tft"))
    source = survey([str(data / "train.gz")], tft_output.transformed_feature_spec(), WORD)
    alphabet = preprocessing.read_alphabet(tft_output)
    model = build(SMALL, len(alphabet) + 1, 32)
    transfer.start_from(model, alphabet, model_dir)
    return Fitting(model, source, source, alphabet, COLD).validate().rate


@pytest.mark.either_stack
def test_a_training_that_only_damages_ends_with_the_weights_of_its_base(toy, base, tmp_path, capsys):
    history, settings = run(toy, tmp_path, warm(base, epochs=2, learning_rate=ABSURD))
    assert [entry["epoch"] for entry in history] == [0, 1, 2] and history[0]["loss"] is None
    before = history[0]["validation_cer"]
    assert before == pytest.approx(validation_cer(toy, base)) and before < 0.05
    assert min(entry["validation_cer"] for entry in history[1:]) > before + 0.3, "it does damage"
    assert validation_cer(toy, str(tmp_path / "model")) == pytest.approx(before)
    facts = settings["training"]
    assert (facts["best_epoch"], facts["epochs_done"], facts["ended"]) == (0, 2, "epochs")
    assert facts["best_validation_cer"] == facts["base_validation_cer"] == pytest.approx(before)
    assert not facts["collapse"] and not facts["still_falling"]
    told = " ".join(capsys.readouterr().err.split())
    assert f"epoch 0/2 the start validation CER {before:.4f}" in told
    assert f"no epoch transcribes the validation images better than the start (CER {before:.4f})" in told
    assert "the weights of the start are kept. Try a lower train.learning_rate (it is 1)" in told


@pytest.mark.either_stack
def test_a_loss_that_is_not_finite_ends_a_warm_start_at_its_base_and_fails_another_training(
    toy, base, tmp_path, capsys
):
    absurd = {"epochs": 3, "learning_rate": 1e30, "clip_norm": 1e30}
    history, settings = run(toy, tmp_path / "warm", warm(base, **absurd))
    assert settings["training"]["ended"] == "loss" and settings["training"]["best_epoch"] == 0
    assert [entry["epoch"] for entry in history] == [0]
    assert validation_cer(toy, str(tmp_path / "warm" / "model")) == pytest.approx(history[0]["validation_cer"])
    told = " ".join(capsys.readouterr().err.split())
    assert "the training loss became nan in epoch 1: lower train.learning_rate (it is 1e+30); training stops" in told
    with pytest.raises(FloatingPointError, match=r"nan in epoch 1: lower train\.learning_rate"):
        run(toy, tmp_path / "scratch", TRAIN.model_copy(update=absurd))


def test_a_trial_from_a_base_whose_loss_is_not_finite_is_left_out(toy, base, tmp_path, capsys):
    given = arguments(toy, tmp_path, warm(base, epochs=1, learning_rate=1e30, clip_norm=1e30), WORD)
    given["custom_config"]["tune"] = TuneConfig(trials=1, epochs=1).model_dump_json()
    found = tuning.tuner_fn(SimpleNamespace(**given, transform_graph_path=str(toy / "tft"), working_dir=str(tmp_path)))
    with pytest.raises(FloatingPointError, match="no trial has a finite loss"):
        found.tuner.search(**found.fit_kwargs)
    assert "the trial is left out: the training loss became nan" in " ".join(capsys.readouterr().err.split())


@pytest.mark.either_stack
def test_the_default_learning_rate_of_a_warm_start_does_not_damage(toy, base, tmp_path):
    history, settings = run(toy, tmp_path, warm(base, epochs=2, learning_rate=None))
    before, *after = [entry["validation_cer"] for entry in history]
    assert max(after) <= before + 0.01
    assert settings["train"]["learning_rate"] < RATE, "the settings tell which one it was"


@pytest.mark.either_stack
def test_the_average_of_the_weights_begins_at_the_base(toy, base, tmp_path):
    history, _ = run(toy, tmp_path, warm(base, epochs=1, learning_rate=ABSURD / 10, average_epochs=10_000.0))
    before, after = (entry["validation_cer"] for entry in history)
    assert after == pytest.approx(before, abs=0.02), "one epoch weighs a ten-thousandth"


def wrong(*images):
    """A validation of a hundred images that reads these ones wrong."""
    return compare(["ab"] * 100, ["cc" if image in images else "ab" for image in range(100)])


# The second epoch is kept: it reads more images wrong than the first, others of them, so that it is not clearly worse.
BEFORE, FIRST, KEPT = wrong(*range(50)), wrong(*range(10)), wrong(*range(50, 66))
CLEARLY_WORSE, HARDLY_WORSE = wrong(*range(10), *range(50, 57)), wrong(*range(50, 67))
BETTER = wrong(*range(10), *range(50, 55))  # than the second epoch, and clearly worse than the first


def fitted(data, base, monkeypatch, validations, alphabet=("a", "b", "c"), **settings):
    """Trains for two epochs from the base, with these validations and then real ones; also the weights before it."""
    keras.utils.set_random_seed(TRAIN.seed)
    model, source = build(SMALL, len(alphabet) + 1, 32), source_of(data)
    new = transfer.start_from(model, alphabet, base).new
    fitting = Fitting(model, source, source, alphabet, warm(base, epochs=2, **settings), new=new)
    given, validate = iter(validations), fitting.validate
    monkeypatch.setattr(fitting, "validate", lambda: next(given, None) or validate())
    start = fitting.weights.current()
    fitting.run()
    assert fitting.best_epoch == 2 and next(given, None) is None
    return fitting, start


@pytest.fixture(scope="module")
def without_share(toy, base):
    """The weights before and after a warm start whose result has no share of them."""
    with pytest.MonkeyPatch.context() as patch:
        fitting, start = fitted(toy, base, patch, [BEFORE, FIRST, KEPT], start_share=0.0)
    learnt = fitting.weights.current()
    assert fitting.best_cer == KEPT.rate and len(start) > 20
    assert any(np.abs(before - after).max() > 1e-3 for before, after in zip(start, learnt, strict=True))
    return start, learnt


@pytest.mark.either_stack
@pytest.mark.parametrize(
    "found, checked, left_out",
    [
        (None, False, False),
        (CLEARLY_WORSE, True, True),
        (CLEARLY_WORSE, False, False),
        (HARDLY_WORSE, True, False),
        (BETTER, True, False),
    ],
    ids=["measured", "clearly worse", "clearly worse, unchecked", "hardly worse", "better than what is kept"],
)
def test_a_share_of_the_start_stays_in_the_result_unless_it_reads_clearly_worse(
    toy, base, without_share, monkeypatch, capsys, found, checked, left_out
):
    validations = [BEFORE, FIRST, KEPT, *filter(None, [found])]
    fitting, _ = fitted(toy, base, monkeypatch, validations, start_share=0.25, start_share_checked=checked)
    taken, tolerance = (1.0, 0.0) if left_out else (0.75, 2e-5)
    for before, learnt, now in zip(*without_share, fitting.weights.current(), strict=True):
        np.testing.assert_allclose(now, (1.0 - taken) * before + taken * learnt, rtol=0, atol=tolerance)
    measured = (found or fitting.validate()).rate
    assert fitting.best_cer == (KEPT.rate if left_out else measured)
    told = " ".join(capsys.readouterr().err.split())
    assert f"{measured:.4f} with a share of 0.25 of the start's weights" in told
    assert ("of the start's weights: left out" in told) == left_out


@pytest.mark.either_stack
@pytest.mark.parametrize("found, left_out", [(HARDLY_WORSE, False), (CLEARLY_WORSE, True)])
def test_normalisation_is_fitted_to_images_as_they_are_unless_these_read_clearly_worse(
    toy, base, without_share, monkeypatch, capsys, found, left_out
):
    # Nothing is augmented, so that the weights are those of a training without.
    settings = {"start_share": 0.0, "clean_statistics": 0.5, "augment": 0.5, "augmentations": []}
    fitting, _ = fitted(toy, base, monkeypatch, [BEFORE, FIRST, KEPT, found], **settings)
    for variable, learnt, now in zip(fitting.model.variables, without_share[1], fitting.weights.current(), strict=True):
        is_moved = not left_out and "moving_" in variable.path
        assert (np.abs(now - learnt).max() > 1e-4) == is_moved, variable.path
    told = " ".join(capsys.readouterr().err.split())
    assert f"{found.rate:.4f} with 0.5 of the statistics of images as they are" in told
    assert ("as they are: left out" in told) == left_out


@pytest.mark.either_stack
def test_the_start_has_no_share_in_what_it_did_not_know(toy, base, monkeypatch):
    """Before the training the columns of a new character are random numbers."""
    settings = {"start_share": 0.25, "start_share_checked": False}
    fitting, start = fitted(toy, base, monkeypatch, [BEFORE, FIRST, KEPT], ("a", "b", "c", "d"), **settings)
    seen = 0
    variables = fitting.model.variables
    for variable, before, learnt, now in zip(
        variables, start, fitting.best_weights, fitting.weights.current(), strict=True
    ):
        if before.dtype.kind == "f" and before.shape[-1:] == (5,):
            seen += 1
            np.testing.assert_array_equal(now[..., 3], learnt[..., 3])
            known = [0, 1, 2, 4]
            before, learnt, now = before[..., known], learnt[..., known], now[..., known]
        if before.dtype.kind == "f":
            np.testing.assert_allclose(now, 0.25 * before + 0.75 * learnt, rtol=0, atol=2e-5, err_msg=variable.path)
    assert seen == 4  # kernel and bias of both heads


@pytest.mark.either_stack
def test_a_warm_start_that_was_interrupted_does_not_measure_its_base_again(toy, base, tmp_path, monkeypatch, capsys):
    neutral = []

    def interrupted(*given):
        neutral.append(given[-1])
        raise KeyboardInterrupt

    train = warm(base, epochs=1, learning_rate=ABSURD)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "fit_temperature", interrupted)
        run(toy, tmp_path, train)
    assert neutral == [settings_of(base)["temperature"]] != [1.0]
    assert list(tmp_path.glob("checkpoints/*/checkpoint.npz"))
    # Without a cache the base model is unpacked to another place each time.
    elsewhere = shutil.copytree(base, tmp_path / "elsewhere")
    history, settings = run(toy, tmp_path, warm(str(elsewhere), epochs=1, learning_rate=ABSURD))
    told = capsys.readouterr().err
    assert "going on after 1 epoch and" in told and told.count("the start     validation CER") == 1
    assert [entry["epoch"] for entry in history] == [0, 1] and settings["training"]["best_epoch"] == 0
    assert validation_cer(toy, str(tmp_path / "model")) == pytest.approx(history[0]["validation_cer"])


@pytest.mark.parametrize("section", ["train", "line_training"])
def test_a_version_made_anew_in_the_same_place_is_another_start(tmp_path, section):
    """Of what TFX compares before it takes outputs from its cache."""

    def noted(content):
        (tmp_path / "7").mkdir(exist_ok=True)
        (tmp_path / "7" / "saved_model.pb").write_bytes(content)
        config = json_utils.dumps({section: json.dumps({"warm_start": str(tmp_path)}), "start_digest": None})
        given = SimpleNamespace(exec_properties={"custom_config": config})
        return json_utils.loads(Driver(None).noted(given)["custom_config"])

    first, again, anew = noted(b"first"), noted(b"first"), noted(b"anew")
    assert json.loads(first[section])["warm_start"] == str(tmp_path / "7")
    assert first == again and first[section] == anew[section] and first != anew


@pytest.mark.either_stack
def test_mixed_precision_measures_the_base_too(toy, base):
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        tft_output = tft.TFTransformOutput(str(toy / "tft"))
        source = survey([str(toy / "train.gz")], tft_output.transformed_feature_spec(), WORD)
        model = build(SMALL, 4, 32)
        transfer.start_from(model, ["a", "b", "c"], base)
        fitting = Fitting(model, source, source, ["a", "b", "c"], warm(base, epochs=1, learning_rate=ABSURD))
        fitting.run()
        assert fitting.best_epoch == 0 and fitting.validate().rate == pytest.approx(fitting.best_cer)
        assert fitting.best_cer < 0.05
    finally:
        keras.mixed_precision.set_global_policy("float32")


@pytest.mark.either_stack
def test_a_collapse_of_a_warm_start_is_told_at_once_and_once(toy, base, capsys):
    tft_output = tft.TFTransformOutput(str(toy / "tft"))
    source = survey([str(toy / "train.gz")], tft_output.transformed_feature_spec(), WORD)
    model = build(SMALL, 4, 32)
    transfer.start_from(model, ["a", "b", "c"], base)
    model.classes.bias.assign([0.0, 0.0, 0.0, 99.0])  # blank everywhere
    Fitting(model, source, source, ["a", "b", "c"], warm(base, epochs=1, learning_rate=1e-6)).run()
    base_line, told, *rest = capsys.readouterr().err.splitlines()
    assert "epoch   0/1  the start     validation CER 1.0000" in base_line
    assert told.strip() == "the network recognises nothing: 192 of 192 validation images come out empty"
    assert sum("192 of 192" in line for line in rest) == 1, "and at the end, with what to do"


@pytest.mark.either_stack
def test_a_training_from_nothing_tells_of_a_collapse_only_at_its_end(toy, tmp_path, capsys):
    history, settings = run(toy, tmp_path, TRAIN.model_copy(update={"epochs": 2, "learning_rate": 1e-3}))
    assert [(entry["epoch"], entry["empty"]) for entry in history] == [(1, 192), (2, 192)]
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("the network recognises nothing: 192 of 192 validation images come out empty") == 1
    assert "Try more epochs (train.epochs is 2: 48 optimiser steps" in told and "or more labels" in told
    facts = settings["training"]
    assert "validation images come out" in facts["collapse"] and facts["base_validation_cer"] is None
    assert facts["images"] == 192 and facts["steps"] == 48 and "CPU" in facts["device"]


@pytest.mark.either_stack
def test_the_plan_is_told_before_training_begins(tmp_path, monkeypatch, capsys):
    data = write_transformed(tmp_path, WORDS * 2, WORD)
    validations = iter([BEFORE, FIRST, CLEARLY_WORSE])
    monkeypatch.setattr(Fitting, "validate", lambda _: next(validations))
    train = TRAIN.model_copy(update={"epochs": None, "patience": 1, "learning_rate": None})
    history, settings = run(data, tmp_path, train)
    told = " ".join(capsys.readouterr().err.split())
    assert "16 images to train on, 16 for validation" in told
    assert "at most 1000 epochs of 2 optimiser steps, 2,000 in all; train.epochs sets another number" in told
    assert settings["train"]["epochs"] == 1000 and len(history) == 3 and settings["training"]["ended"] == "patience"


@pytest.fixture
def unused_gpu(monkeypatch):
    """A GPU that only the driver tells of."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(accelerators, "system_gpus", lambda: ["NVIDIA L4"])


def test_a_gpu_that_tensorflow_does_not_see_is_warned_of(unused_gpu, capsys):
    assert not tf.config.list_physical_devices("GPU")
    assert accelerators.use_accelerators(TRAIN).startswith("CPU, ")
    told = " ".join(capsys.readouterr().err.split())
    assert "warning: This machine has NVIDIA L4, but TensorFlow cannot use it" in told and "htr doctor" in told


@pytest.mark.either_stack
def test_a_training_starts_from_the_base_model_of_its_preset(toy, base, shipped, tmp_path, capsys):
    assert TrainConfig().warm_start == AUTO
    history, settings = run(toy, tmp_path, TRAIN.model_copy(update={"epochs": 1, "learning_rate": ABSURD}))
    assert history[0]["epoch"] == 0 and history[0]["validation_cer"] == pytest.approx(
        validation_cer(toy, base), abs=0.02
    )
    assert settings["start"]["root_base"] == "word"
    assert settings["start"]["base_model"] and "base model for transform.preset=word" in settings["start"]["name"]
    assert settings["train"]["warm_start"].startswith(str(tmp_path / "cache"))
    assert "starting from the base model for transform.preset=word" in " ".join(capsys.readouterr().err.split())
    found = find(str(tmp_path / "models"), "htr", str(tmp_path / "model"), AUTO)
    assert found.kind == "base_model" and found.path == settings["train"]["warm_start"]
    assert str(found) == "the base model that the training started from"


@pytest.mark.either_stack
@pytest.mark.parametrize(
    ("transform", "softening", "train", "is_kept"),
    [
        (WORD, None, {}, True),
        (WORD.model_copy(update={"contrast": False}), None, {}, False),
        (WORD, 0.25, {}, False),
        (WORD, None, {"keep_characters": False}, False),
    ],
    ids=["same", "other images", "other softening", "fewer characters"],
)
def test_the_weights_of_the_start_are_that_model_only_where_it_would_transcribe_with_them_as_it_does(
    shipped, tmp_path, transform, softening, train, is_kept
):
    data = write_transformed(tmp_path / "data", ["ab", "ba", "aab", "abba"] * 12, WORD)  # the start also knows a c
    train = TRAIN.model_copy(update={"epochs": 1, "learning_rate": ABSURD, **train})
    given = arguments(data, tmp_path, train, transform)
    given["custom_config"]["model"] = SMALL.model_copy(update={"softening": softening}).model_dump_json()
    training.run_fn(SimpleNamespace(**given))
    assert settings_of(tmp_path / "model")["training"]["best_epoch"] == 0
    assert kept_start(str(tmp_path / "model")) == ("the base model" if is_kept else "")


@pytest.mark.either_stack
def test_without_a_base_model_that_fits_a_training_starts_from_nothing_and_says_why(toy, shipped, tmp_path, capsys):
    history, settings = run(toy, tmp_path, TRAIN.model_copy(update={"epochs": 1, "warm_start": None}))
    assert history[0]["epoch"] == 1 and settings["start"]["name"] == "nothing" and not settings["start"]["base_model"]
    assert "starting from nothing" in capsys.readouterr().err
    assert find(str(tmp_path / "models"), "htr", str(tmp_path / "model"), AUTO).kind == "none"
    for transform, model, why in (
        (WORD, ModelConfig(), "has another model.filters, model.recurrent_units, model.recurrent_layers"),
        (TransformConfig(preset="line"), SMALL, "no base model is shipped for transform.preset=line"),
    ):
        train, _, start = settled(TrainConfig(), transform, model)
        assert (
            train.warm_start is None and not start.is_base and start.name.startswith("nothing: ") and why in start.name
        )
        with pytest.raises(WarmStartError, match=r"train\.freeze: recurrent would keep the random weights"):
            settled(TrainConfig(freeze=["recurrent"]), transform, model)
    assert TrainConfig(warm_start="none").warm_start is None


@pytest.mark.either_stack
def test_a_base_model_that_has_learnt_from_other_images_is_said_to_start_worse(shipped):
    same = settled(TrainConfig(), WORD.model_copy(update={"width": 256}), SMALL)[2]
    assert same.is_base and "learnt" not in same.name
    other = settled(TrainConfig(), WORD.model_copy(update={"resize": "stretch", "height": 48}), SMALL)[2]
    learnt = "(it has learnt with transform.height=32, transform.resize=pad, so it starts worse here)"
    assert other.is_base and other.name == f"{same.name} {learnt}"


def test_a_training_softens_images_as_its_start_does_unless_it_is_told_otherwise(toy, tmp_path):
    soft = SMALL.model_copy(update={"softening": 0.1})
    first = TRAIN.model_copy(update={"epochs": 1, "warm_start": None})
    given = arguments(toy, tmp_path, first, WORD)
    given["custom_config"]["model"] = soft.model_dump_json()
    training.run_fn(SimpleNamespace(**given))
    assert settings_of(tmp_path / "model")["model"]["softening"] == 0.1
    train = first.model_copy(update={"warm_start": str(tmp_path / "model")})
    assert settled(train, WORD, SMALL)[1] == soft and settled(first, WORD, SMALL)[1].softening == 0.0
    assert settled(train, WORD, SMALL.model_copy(update={"softening": 0.0}))[1].softening == 0.0


@pytest.mark.either_stack
def test_a_training_starts_where_the_trials_of_its_tuner_have_started(toy, shipped, tmp_path, capsys):
    given = arguments(toy, tmp_path, TrainConfig(epochs=1, batch_size=64), WORD)
    given["custom_config"]["model"] = SMALL.model_copy(update={"recurrent_units": 12}).model_dump_json()
    given["custom_config"]["tune"] = TuneConfig(trials=1, epochs=1).model_dump_json()
    tuner = tuning.tuner_fn(SimpleNamespace(**given, transform_graph_path=str(toy / "tft"), working_dir=str(tmp_path)))
    assert "1 trial of 1 epoch each, before the training of 1 epoch" in " ".join(capsys.readouterr().err.split())
    assert not tuner.tuner.train_config.is_warm, "the base model has twice as many units"
    found = {"values": {"model.recurrent_units": SMALL.recurrent_units, "train.learning_rate": 0.004}}
    training.run_fn(SimpleNamespace(**given, hyperparameters=found))
    settings = json.loads((tmp_path / "model" / "assets.extra" / "htr.json").read_text())
    assert settings["model"]["recurrent_units"] == SMALL.recurrent_units
    assert settings["start"]["name"].startswith("nothing: ") and settings["train"]["warm_start"] is None


def test_a_directory_without_a_model_is_no_start(tmp_path):
    with pytest.raises(WarmStartError, match="neither a version of a model nor a directory with versions"):
        settled(TrainConfig(warm_start=str(tmp_path)), WORD, SMALL)


def test_a_version_that_has_learnt_from_other_images_is_no_start(base):
    start, line = TrainConfig(warm_start=base), TransformConfig(preset="line")
    settled(start, WORD.model_copy(update={"width": 256}), SMALL)
    settled(start, line.model_copy(update={"height": 32}), SMALL)
    needed = r"Leave train\.warm_start out.* or train with --set transform\.preset=word --set transform\.height=32"
    with pytest.raises(WarmStartError, match=rf"transform\.height is 64 here\. {needed}"):
        settled(start, line, SMALL)
    with pytest.raises(WarmStartError, match=r"transform\.contrast is False here"):
        settled(start, WORD.model_copy(update={"contrast": False}), SMALL)


@pytest.mark.parametrize("section", ["train", "line_training"])
def test_a_newer_version_to_start_from_is_a_changed_input(tmp_path, section):
    from pipeline.config import load
    from pipeline.definition import create_pipeline
    from pipeline.page_definition import create_page_pipeline

    create = create_pipeline if section == "train" else create_page_pipeline

    def noticed(start):
        """Properties that TFX's cache compares, of the steps that train."""
        config = load(None, ["tune.trials=1"], workspace=str(tmp_path), **{section: {"warm_start": start}})
        found = {}
        for step in create(config, str(tmp_path / "root")).components:
            if step.id in ("Trainer", "Tuner"):
                properties = dict(step.exec_properties)
                changed = step.driver_class(None).run(SimpleNamespace(exec_properties=properties)).exec_properties
                properties.update({name: value.string_value for name, value in changed.items()})
                found[step.id] = str(properties)
        return found

    models = tmp_path / "models"
    for number in ("100", "200"):
        (models / number).mkdir(parents=True)
        (models / number / "saved_model.pb").touch()
        newest, alone = noticed(str(models)), noticed(str(models / "100"))
        assert len(newest) == (2 if section == "train" else 1)
        assert all(f"{models}/{number}" in text for text in newest.values())
        assert all(f"{models}/100" in text for text in alone.values())
    assert noticed("auto") == noticed("auto") and str(models) not in str(noticed("auto"))
