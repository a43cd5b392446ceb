"""Fixtures of the pusher's tests."""

import pytest


@pytest.fixture
def model(tmp_path):
    source = tmp_path / "export"
    (source / "variables").mkdir(parents=True)
    (source / "saved_model.pb").write_bytes(b"graph")
    (source / "variables" / "variables.index").write_bytes(b"index" * 200_000)
    return source
