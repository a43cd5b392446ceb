"""Whoever has read a dataset does not wait for the thread that tunes it (`components.common.datasets`)."""

import pytest

from components.trainer.input_pipeline import batches, divisible, plain_batches
from tests.components.toy import LINE, TRAIN, source_of, write_transformed


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return source_of(write_transformed(tmp_path_factory.mktemp("lines"), ["ab", "abc"] * 20, LINE), LINE)


@pytest.mark.parametrize(
    "made",
    [
        lambda source: batches(source, TRAIN),
        lambda source: divisible(batches(source, TRAIN), 2),
        lambda source: plain_batches(source, 8),
    ],
)
def test_what_a_training_reads_is_not_tuned_meanwhile(source, made):
    dataset = made(source)
    assert dataset.options().autotune.enabled is False
    assert sum(inputs["images"].shape[0] for inputs, _ in dataset) >= 40
