"""The estimate of a training's time, against trainings that were measured."""

import pytest

from components.trainer import estimate
from components.trainer.settings import TrainConfig


def test_steps_count_the_last_batch_of_each_epoch():
    assert estimate.expected_steps(TrainConfig(warm_start=None, epochs=3, batch_size=16), 33) == 9
    assert estimate.expected_steps(TrainConfig(warm_start=None, epochs=3, batch_size=16), 0) == 0


@pytest.mark.parametrize(
    ("images", "validation", "epochs", "pixels", "measured"),
    [
        (5169, 864, 10, 32 * 128, 297),  # the demo, two shared cores
        (50_000, 0, 1, 32 * 128, 182),  # docs/performance.md
        (4165, 322, 30, 64 * 256, 4165 * 30 / 80),  # docs/accuracy.md, place names: 80 images a second
        (4284, 418, 12, 64 * 970, 76 * 60 / 1.5),  # docs/accuracy.md, lines: CPU time, with all other steps
    ],
)
def test_it_is_right_to_a_factor_of_two_where_time_was_measured(images, validation, epochs, pixels, measured):
    seconds = estimate.expected_seconds(
        TrainConfig(warm_start=None, epochs=epochs), images, validation, pixels, cores=2
    )
    assert measured / 2 < seconds < measured * 2


def test_more_cores_take_less_time_but_not_in_proportion():
    times = [
        estimate.expected_seconds(TrainConfig(warm_start=None), 1000, 100, 4096, cores) for cores in (1, 2, 4, 8, 64)
    ]
    assert times[0] > times[1] > times[2] > times[3] == times[4] > times[0] / 8


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(5, "a minute or two"), (600, "about 10 minutes"), (7000, "about 2 hours"), (40 * 3600, "about 2 days")],
)
def test_times_are_said_no_more_exactly_than_they_are_known(seconds, words):
    assert estimate.in_words(seconds) == words


def test_more_labels_bring_more_up_to_the_most_that_were_measured():
    rates = [estimate.adapted_cer(images)[1] for images in range(0, 701, 10)]
    assert rates[0] == estimate.adapted_cer(0)[0] and rates == sorted(rates, reverse=True) and rates[-1] < rates[0]
    assert estimate.adapted_cer(10_000) == estimate.adapted_cer(700)
