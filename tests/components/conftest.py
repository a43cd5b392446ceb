"""What several test modules of the components share."""

import pytest

from components.transform.settings import TransformConfig
from tests.components.toy import WORDS, write_transformed


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A folder with the toy script as Transform writes it."""
    return write_transformed(tmp_path_factory.mktemp("toy"), WORDS * 24, TransformConfig())
