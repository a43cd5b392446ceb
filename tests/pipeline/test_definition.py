"""A changed setting runs the steps again that depend on it, and no others."""

import pytest

from pipeline.config import load
from pipeline.definition import create_pipeline


def again(*settings):
    """Names of the steps that these settings run again: with other parameters, or after such a step."""
    made, changed = (
        create_pipeline(load(overrides=["data.paths=[names]", *more]), "root", looks_back=False)
        for more in ((), settings)
    )
    found = set()
    for old, new in zip(made.components, changed.components, strict=True):
        after = {channel.producer_component_id for channel in new.inputs.values()}
        if new.exec_properties != old.exec_properties or after & found:
            found.add(new.id)
    return found


@pytest.mark.parametrize("setting", ["drift.thresholds.sharpness=0.9", "drift.fail=true"])
def test_settings_of_an_alarm_train_nothing(setting):
    assert again(setting) == {"ExampleValidator", "RunReport", "Pusher"}


def test_settings_of_the_training_train():
    found = again("train.seed=2")
    assert {"Trainer", "Evaluator", "Pusher"} <= found and not {"Transform", "ExampleValidator"} & found
