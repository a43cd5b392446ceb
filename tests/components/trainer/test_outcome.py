"""What is said of a training that has collapsed or could have gone on."""

import pytest

from components.trainer.outcome import advice_for_collapse, compare, still_falling

LABELS = [f"name {i}" for i in range(49)]


def test_a_network_that_reads_nothing_is_called_so():
    found = compare(LABELS, [""] * 49)
    assert found.rate == 1.0 and found.empty == 49
    assert found.collapse == "the network recognises nothing: 49 of 49 validation images come out empty"
    assert "48 of 49" in compare(LABELS, ["n"] + [""] * 48).collapse


def test_a_network_that_reads_the_same_everywhere_is_called_so():
    assert "49 of 49 validation images come out alike" in compare(LABELS, ["e"] * 49).collapse


@pytest.mark.parametrize(
    ("labels", "texts"),
    [
        (LABELS, LABELS),
        (LABELS, ["e"] * 25 + [""] * 24),
        (["de"] * 40, ["de"] * 40),  # all labels alike
        (["a"], ["b"]),
        ([], []),
    ],
)
def test_other_networks_are_not(labels, texts):
    assert compare(labels, texts).collapse is None


@pytest.mark.parametrize("images, worse", [(1, False), (3, False), (12, True)])
def test_a_few_images_do_not_make_a_validation_clearly_worse(images, worse):
    best, found = compare(LABELS[:images], LABELS[:images]), compare(LABELS[:images], ["n"] * images)
    assert found.is_clearly_worse(best.images) == worse


def test_advice_begins_with_the_likeliest():
    collapse = compare(LABELS, [""] * 49).collapse
    short = advice_for_collapse(collapse, 95, 5, 2e-3)
    assert "49 of 49" in short and "train.epochs is 5: 95 optimiser steps" in short and "more labels" in short
    assert short.index("train.epochs") < short.index("train.learning_rate")
    long = advice_for_collapse(collapse, 9000, 30, 0.1)
    assert long.index("lower train.learning_rate (it is 0.1)") < long.index("train.epochs")


def entries(*cers):
    return [{"epoch": i, "loss": None if i == 0 else 1.0, "validation_cer": cer} for i, cer in enumerate(cers)]


def test_still_falling_is_about_the_last_quarter():
    assert still_falling(entries(0.9, 0.5, 0.3, 0.2, 0.15, 0.12, 0.1, 0.08))
    assert not still_falling(entries(0.9, 0.5, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1))
    assert not still_falling(entries(0.05, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)), "the base is the best"
    assert not still_falling(entries(0.9, 0.5)) and not still_falling([])
    many = [0.5 - 0.004 * i for i in range(100)]
    assert still_falling(entries(*many, 0.11)), "the best of a hundred epochs need not be one of the last two"
