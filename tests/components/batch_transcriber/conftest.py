"""What the tests of batches share."""

import pytest

from tests.components.toy_reader import save, save_line_finder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Directories of a recogniser and a line finder that are made of a few operations."""
    folder = tmp_path_factory.mktemp("models")
    return save(folder / "htr" / "1"), save_line_finder(folder / "htr-lines" / "1")
