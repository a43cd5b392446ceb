"""A training keeps the characters that its start can write and its labels lack."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from components.common.metrics import count_errors
from components.trainer import keeping, training
from components.transform.settings import TransformConfig
from serving.local import LocalClient
from serving.version_directory import SETTINGS_FILE
from tests.components.toy import TRAIN, WORDS, arguments, drawn, write_transformed

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
    assert narrow["best_validation_cer"] == settings["best_validation_cer"]
    images = [drawn(word, 500 + i) for i, word in enumerate(WORDS)]
    texts = {}
    for name in ("kept", "dropped"):
        with LocalClient(tmp_path / name / "model") as client:
            texts[name] = [answer.text for answer in client.transcribe_many(images)]
    assert count_errors(WORDS, texts["kept"]).rate < 0.1
    assert "c" not in "".join(texts["dropped"]) and count_errors(WORDS, texts["dropped"]).rate > 0.15


def test_characters_that_harm_are_left_out(few, base, tmp_path, monkeypatch, capsys):
    """As where the start writes a letter that looks like one of the labels."""
    learn = keeping.learn_from

    def harmed(wide, *others):
        learn(wide, *others)
        for variable in wide.variables:
            if variable.path.endswith("classes/bias") and "shortcut" not in variable.path:
                variable.assign(variable.numpy() + np.array([0, 0, 50, 0]))

    monkeypatch.setattr(keeping, "learn_from", harmed)
    _, settings = trained(few, tmp_path, warm(base))
    assert settings["alphabet"] == ["a", "b"]
    assert "no training label has: 1, left out (validation CER" in " ".join(capsys.readouterr().err.split())
