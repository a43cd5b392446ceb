"""What several test modules of the components share."""

import pytest

from components.transform.settings import TransformConfig
from tests.components.toy import WORDS, write_transformed


@pytest.fixture(scope="session")
def toy(once):
    """A folder with the toy script as Transform writes it."""
    return once("toy", lambda folder: write_transformed(folder, WORDS * 24, TransformConfig()))
