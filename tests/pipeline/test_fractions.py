"""Fractions in settings and arguments: a slip is refused, with what was probably meant."""

import pytest

from components.common import fractions
from components.common.settings import ConfigError
from pipeline import cli
from pipeline.config import load


@pytest.mark.parametrize("text, value", [
    (0, 0.0), (1, 1.0), (0.05, 0.05), ("0.05", 0.05), ("5%", 0.05), (" 5 % ", 0.05), ("0.5%", 0.005), ("100%", 1.0),
])  # fmt: skip
def test_fractions_and_percentages(text, value):
    assert fractions.parse(text) == pytest.approx(value)


@pytest.mark.parametrize(
    "value", [5, 1.01, -0.1, float("inf"), float("nan"), True, False, "inf", "true", "101%", "", None]
)
def test_anything_else_is_refused(value):
    with pytest.raises(ValueError, match="a fraction between 0 and 1"):
        fractions.parse(value)


@pytest.mark.parametrize("setting", [
    "gate.max_cer", "gate.max_cer_increase", "gate.confidence_level", "data.max_rejected", "data.validation_fraction",
    "data.eval_fraction", "model.dropout",
])  # fmt: skip
@pytest.mark.parametrize("slip, meant", [("5", "for 5 % write 0.05 or 5%"), (".inf", ""), ("true", "")])
def test_every_fraction_of_the_configuration(setting, slip, meant):
    with pytest.raises(ConfigError, match=f"^{setting}: a fraction between 0 and 1.*{meant}"):
        load(overrides=[f"{setting}={slip}"])
    name = setting.partition(".")[2]
    assert getattr(getattr(load(overrides=[f"{setting}=5%"]), setting.partition(".")[0]), name) == pytest.approx(0.05)


def test_fractions_by_name():
    with pytest.raises(ConfigError, match=r"gate.slice_max_cer.writer: a fraction .* for 20 % write 0.2 or 20%"):
        load(overrides=["gate.slice_max_cer={writer: 20}"])
    with pytest.raises(ConfigError, match=r"drift.thresholds.sharpness: a fraction"):
        load(overrides=["drift.thresholds={sharpness: 30}"])


@pytest.mark.parametrize("bound", ["gate.max_cer=1.5", "gate.max_cer=.inf", "gate.slice_max_cer={writer: 20}"])
def test_a_bound_that_was_meant_to_switch_off_is_told_of_null(bound):
    with pytest.raises(ConfigError, match=r"a fraction between 0 and 1.*, for no bound null or no entry"):
        load(overrides=[bound])


@pytest.mark.parametrize("bound", ["gate.max_cer=1", "gate.max_cer_increase=1.0", "gate.slice_max_cer={writer: 100%}"])
def test_a_bound_that_refuses_nothing_is_a_slip(bound):
    with pytest.raises(ConfigError, match=r"a bound of 100 % refuses nothing: for 1 % write 0\.01 or 1%"):
        load(overrides=[bound])
    assert load(overrides=["data.max_rejected=1"]).data.max_rejected == 1


def test_off_and_no_baseline():
    assert load(overrides=["gate.max_cer=null"]).gate.max_cer is None
    with pytest.raises(ConfigError, match=r"gate.baseline_reason: .* say why"):
        load(overrides=["gate.baseline=none"])
    with pytest.raises(ConfigError, match="say why"):
        load(overrides=["gate.baseline=none", "gate.baseline_reason='  '"])
    with pytest.raises(ConfigError, match=r"goes with gate\.baseline=none"):
        load(overrides=["gate.baseline_reason=because"])
    assert load(overrides=["gate.baseline=none", "gate.baseline_reason=new preset"]).gate.baseline == "none"


def test_review_below_70_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["review", "a.png", "--output", "x", "--below", "70"])
    assert ended.value.code == cli.USAGE
    assert "for 70 % write 0.7 or 70% (got 70)" in capsys.readouterr().err
