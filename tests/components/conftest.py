"""What several test modules of the components share."""

from types import SimpleNamespace

import pytest

from components.transform.settings import TransformConfig
from tests.components.toy import TRAIN, WORDS, arguments, write_transformed


@pytest.fixture(scope="session")
def toy(once):
    """A folder with the toy script as Transform writes it."""
    return once("toy", lambda folder: write_transformed(folder, WORDS * 24, TransformConfig()))


@pytest.fixture(scope="session")
def toy_model(once, toy):
    """The directory of a model for words that reads the toy script well, as Trainer leaves it."""
    from components.trainer.training import run_fn

    return once("model", lambda out: run_fn(SimpleNamespace(**arguments(toy, out, TRAIN, TransformConfig())))) / "model"
