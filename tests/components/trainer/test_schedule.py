"""How long a training lasts where nobody says so, and what is told of it: no TensorFlow needed."""

import math
import subprocess
import sys

import pytest

from components.trainer.schedule import Schedule, epochs_for, schedule_for, trial_epochs
from components.trainer.settings import TrainConfig, TuneConfig

OPEN = TrainConfig(warm_start=None)
WARM = TrainConfig(warm_start="htr/1")


def steps(images: int, train: TrainConfig = OPEN) -> int:
    return epochs_for(train, images) * math.ceil(images / train.batch_size)


def test_epochs_follow_the_number_of_images():
    table = {200: 300, 300: 247, 1000: 75, 5000: 30, 20_000: 15, 100_000: 7, 330_000: 4, 10_000_000: 3}
    assert {images: epochs_for(OPEN, images) for images in table} == table
    for images in table:
        if images >= 300 and images <= 330_000:
            assert 4_000 < steps(images) < 85_000
    epochs = [epochs_for(OPEN, images) for images in range(1, 400_000, 997)]
    assert epochs == sorted(epochs, reverse=True) and epochs_for(OPEN, 0) == 2000


def test_the_setting_tells_the_epochs_of_both_starts():
    told = f"for 5,000 {epochs_for(WARM, 5000)} after a warm start and {epochs_for(OPEN, 5000)} from random weights"
    assert told in (TrainConfig.model_fields["epochs"].description or "")


@pytest.mark.parametrize(("images", "batch_size"), [(1, 16), (12, 16), (40, 16), (100, 16), (200, 64)])
def test_the_smallest_sets_get_the_steps_after_which_ctc_reads(images, batch_size):
    assert 2000 <= steps(images, TrainConfig(warm_start=None, batch_size=batch_size)) <= 4700
    assert epochs_for(TrainConfig(warm_start="htr/1", batch_size=batch_size), images) <= 300


@pytest.mark.parametrize("images", [200, 300, 700, 4165, 20_000])
def test_a_base_needs_half_the_steps(images):
    assert steps(images, WARM) <= 0.5 * steps(images)
    assert images > 1000 or 1500 < steps(images, WARM) <= 3000


def test_larger_batches_get_as_many_steps():
    assert steps(5000, TrainConfig(warm_start=None, batch_size=64)) == pytest.approx(steps(5000), rel=0.05)


def test_larger_batches_of_few_images_get_fewer_steps_as_the_setting_says():
    large = WARM.model_copy(update={"batch_size": 64})
    assert epochs_for(large, 300) == 300 and steps(300, large) < steps(300, WARM)
    assert "up to 300 epochs" in (TrainConfig.model_fields["batch_size"].description or "")


@pytest.mark.parametrize("images", [10, 5000, 330_000])
def test_an_explicit_number_wins(images):
    told = TrainConfig(warm_start=None, epochs=9, patience=2, learning_rate=0.03)
    assert schedule_for(told, images) == Schedule(epochs=9, patience=2, learning_rate=0.03)


def test_patience_is_relative_and_a_warm_start_of_few_images_learns_slower():
    assert schedule_for(OPEN, 5000) == Schedule(epochs=30, patience=12, learning_rate=2e-3)
    assert schedule_for(TrainConfig(warm_start=None, epochs=4), 5000).patience == 5
    rates = [schedule_for(WARM, images).learning_rate for images in (10, 300, 1000, 4165, 5000, 330_000)]
    assert rates == [5e-4, 5e-4, 9.1e-4, 1.9e-3, 2e-3, 2e-3]
    assert trial_epochs(TuneConfig(), schedule_for(OPEN, 5000)) == 6
    assert trial_epochs(TuneConfig(epochs=2), schedule_for(OPEN, 5000)) == 2


def test_what_check_and_report_use_needs_no_tensorflow():
    modules = ["schedule", "outcome", "devices", "progress"]
    code = "import sys\n" + "".join(f"import components.trainer.{name}\n" for name in modules)
    code += "print([name for name in ('tensorflow', 'keras', 'tfx') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_whether_a_training_is_warm_is_asked_of_a_settled_start():
    assert WARM.is_warm and WARM.names_start and not OPEN.is_warm and not OPEN.names_start
    assert not TrainConfig().names_start
    with pytest.raises(ValueError, match="not settled"):
        epochs_for(TrainConfig(), 1000)
