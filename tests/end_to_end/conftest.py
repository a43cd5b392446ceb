"""A small dataset of their own for the tests of a file, which may change it; settings that make a run short."""

import shutil

import pytest

# Seconds of training: enough to run every step, not to read. What a trained model reads, test_training.py checks.
FAST = ["train.epochs=1", "model.filters=[8,8,8]", "model.recurrent_units=8", "model.recurrent_layers=1",
        "gate.max_cer=null"]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory, sample_data):
    folder = tmp_path_factory.mktemp("data") / "data"
    shutil.copytree(sample_data, folder)
    return folder
