"""A training keeps the characters that its start can write and its labels lack."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from components.common.metrics import count_errors
from components.trainer import keeping, training
from components.trainer.fitting import log_probs_of
from components.trainer.keeping import Kept, with_characters_of
from components.trainer.model import build
from components.trainer.outcome import Validation
from components.trainer.transfer import start_from
from components.transform.settings import TransformConfig
from serving.local import LocalClient
from serving.version_directory import SETTINGS_FILE
from tests.components.toy import SMALL, TRAIN, WORDS, arguments, drawn, source_of, write_transformed

pytestmark = [pytest.mark.slow, pytest.mark.either_stack]  # networks are trained

WORD = TransformConfig()


def trained(data, out, train):
    """Trains; returns the directory of the model and its settings."""
    given = arguments(data, out, train, WORD)
    training.run_fn(SimpleNamespace(**given))
    model = out / "model"
    return model, json.loads((model / SETTINGS_FILE).read_text())


@pytest.fixture(scope="module")
def base(toy_model):
    """The directory of a model that writes a, b and c."""
    return str(toy_model)


def warm(base, **settings):
    """Settings of a training from the base."""
    return TRAIN.model_copy(update={"warm_start": base, "epochs": 1, "learning_rate": 1e-3, **settings})


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """The toy script's words without the letter c."""
    return write_transformed(tmp_path_factory.mktemp("few"), ["ab", "ba", "aab", "abba"] * 12, WORD)


def test_characters_that_no_training_label_has_stay(few, base, tmp_path, capsys):
    train = warm(base)
    _, settings = trained(few, tmp_path / "kept", train)
    assert settings["alphabet"] == settings["start"]["alphabet"] == ["a", "b", "c"]
    assert "characters of the start that no training label has: 1, kept (validation CER" in " ".join(
        capsys.readouterr().err.split()
    )
    _, narrow = trained(few, tmp_path / "dropped", train.model_copy(update={"keep_characters": False}))
    assert narrow["alphabet"] == ["a", "b"] and narrow["start"]["alphabet"] == ["a", "b", "c"]
    # They were trained alike, and differ in that character only.
    cers = [each["training"]["best_validation_cer"] for each in (settings, narrow)]
    assert cers[0] == cers[1] == narrow["best_validation_cer"]
    images = [drawn(word, 500 + i) for i, word in enumerate(WORDS)]
    texts = {}
    for name in ("kept", "dropped"):
        with LocalClient(tmp_path / name / "model") as client:
            texts[name] = [answer.text for answer in client.transcribe_many(images)]
    assert count_errors(WORDS, texts["kept"]).rate < 0.1
    assert "c" not in "".join(texts["dropped"]) and count_errors(WORDS, texts["dropped"]).rate > 0.15


@pytest.fixture
def harmful(monkeypatch):
    """The character that is added comes out everywhere: the start writes a letter that looks like one of the labels."""
    learn = keeping.learn_from

    def harmed(wide, *others):
        learn(wide, *others)
        for variable in wide.variables:
            if variable.path.endswith("classes/bias") and "shortcut" not in variable.path:
                variable.assign(variable.numpy() + np.array([0, 0, 50, 0]))

    monkeypatch.setattr(keeping, "learn_from", harmed)


def test_characters_that_harm_are_left_out(few, base, harmful, tmp_path, capsys):
    _, settings = trained(few, tmp_path, warm(base))
    assert settings["alphabet"] == ["a", "b"]
    assert "no training label has: 1, left out (validation CER" in " ".join(capsys.readouterr().err.split())
    assert settings["best_validation_cer"] == settings["training"]["best_validation_cer"]


def test_the_validation_cer_is_that_of_the_network_that_is_exported(few, base, harmful, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Validation, "is_clearly_worse", lambda *_: False)
    _, settings = trained(few, tmp_path, warm(base))
    assert settings["alphabet"] == ["a", "b", "c"]
    cer = settings["best_validation_cer"]
    assert f"kept (validation CER {cer:.4f} with them" in " ".join(capsys.readouterr().err.split())
    assert cer > settings["training"]["best_validation_cer"] + 0.3


def called(base, folder, characters):
    """The base with other names for its classes, as if it wrote another script."""
    shutil.copytree(base, folder)
    settings = json.loads((folder / SETTINGS_FILE).read_text())
    (folder / SETTINGS_FILE).write_text(json.dumps({**settings, "alphabet": characters}))
    return str(folder)


def like_labels(version, known):
    """A network that has learnt a and b to look like two characters of a version, a little less sure of a."""
    model = build(SMALL, 3, 32)
    start_from(model, known, version)
    model.classes.bias.assign(model.classes.bias.numpy() - np.array([0.5, 0, 0], np.float32))
    return Kept(model, ["a", "b"], log_probs_of(model))


def first(source, count, folder):
    """The first images of a split as a split of its own."""
    path = str(folder / "first.gz")
    with tf.io.TFRecordWriter(path, "GZIP") as writer:
        for record in tf.data.TFRecordDataset(source.files, "GZIP").take(count):
            writer.write(record.numpy())
    return dataclasses.replace(source, files=[path], samples=count)


def test_three_validation_images_do_not_let_letters_of_another_script_replace_those_of_the_labels(
    few, base, tmp_path, capsys
):
    """No test can tell three images that are all wrong from chance; the images that it has learnt from can."""
    version = called(base, tmp_path / "version", ["d", "b", "c"])
    learnt = like_labels(version, ["d", "b"])
    images = source_of(few)
    kept = with_characters_of(version, learnt, SMALL, images, first(images, 3, tmp_path))
    assert kept.alphabet == ["a", "b"]
    assert "left out (validation and training CER" in " ".join(capsys.readouterr().err.split())


def test_of_a_start_that_knows_no_letter_of_the_labels_digits_alone_stay(few, base, tmp_path):
    version = called(base, tmp_path / "version", ["d", "e", "3"])
    images = source_of(few)
    kept = with_characters_of(version, like_labels(version, ["d", "e"]), SMALL, images, images)
    assert kept.alphabet == ["3", "a", "b"]


def test_characters_of_a_given_alphabet_that_no_label_has_are_those_of_the_start(few, base):
    model = build(SMALL, 4, 32)
    start_from(model, ["a", "b", "c"], base)
    before = model.classes.kernel.numpy()
    model.classes.kernel.assign(before * np.array([1.1, 1.1, 0, 1], np.float32))
    images = source_of(few)
    learnt = Kept(model, ["a", "b", "c"], log_probs_of(model))
    kept = with_characters_of(base, learnt, SMALL, images, images, is_given=True)
    assert kept.alphabet == ["a", "b", "c"]
    np.testing.assert_allclose(kept.model.classes.kernel.numpy(), before * [1.1, 1.1, 1, 1], rtol=1e-6)


def test_a_given_alphabet_stays_the_whole_alphabet(few, base):
    images = source_of(few)
    model = build(SMALL, 3, 32)
    start_from(model, ["a", "b"], base)
    learnt = Kept(model, ["a", "b"], log_probs_of(model))
    assert with_characters_of(base, learnt, SMALL, images, images, is_given=True) is learnt
