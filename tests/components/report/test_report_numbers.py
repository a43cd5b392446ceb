"""Figures as people read them: a bound that is missed does not look met."""

import re

import pytest

from components.evaluator.verdict import Failure
from components.report import card
from components.report.html import page as write_page
from components.report.numbers import bound_places, percent, points
from pipeline.config import Config
from tests.components.report.report_material import material, table, without_plots, words

FIGURES = ("reliability", "review", "distributions", "curves", "confusion")


@pytest.mark.parametrize(
    ("value", "bound", "shown"),
    [
        (0.10004, 0.1, ("10.004 %", "10.000 %")),
        (0.1, 0.1, ("10.00 %", "10.00 %")),
        (0.08, 0.1, ("8.00 %", "10.00 %")),
        (4 / 200 - 3 / 200, 0.005, ("0.50 %", "0.50 %")),
        (0.0013, 0.00125, ("0.130 %", "0.125 %")),
        (None, 0.00125, ("–", "0.125 %")),
        (0.3, None, ("30.00 %", "–")),
    ],
)
def test_a_value_beyond_its_bound_is_told_from_it(value, bound, shown):
    places = bound_places(bound, value)
    assert (percent(value, places), percent(bound, places)) == shown


def test_page_and_card_show_bounds_as_they_are():
    made = material(table(words(200), baseline_rate=0.05), Config(gate={"max_cer": 0.40625, "max_cer_increase": 0.005}))
    metrics = made.verdict.metrics
    metrics["cer"] = made.verdict.baseline["cer"] + 0.00502
    made.verdict.failures.append(Failure("cer", "all", metrics["cer"], 0.005, "change"))
    built = {**without_plots(made), "figures": dict.fromkeys(FIGURES, "")}
    rows = re.findall(r'<td class="n">([^<]*)</td>\n<td class="n">([^<]*)</td></tr>', write_page(built))
    assert rows[0][1] == "40.625 %" and rows[1] == ("+0.502 points", "+0.500 points")
    made.verdict.failures.clear()
    assert "is at most 40.625 % (`gate.max_cer`)" in card.write(without_plots(made))


@pytest.mark.parametrize(("difference", "shown"), [(-0.00004, "+0.00"), (0.0, "+0.00"), (-0.0123, "−1.23")])
def test_what_rounds_to_nothing_has_no_minus(difference, shown):
    assert points(difference) == shown
