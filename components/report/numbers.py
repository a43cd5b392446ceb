"""Figures of reports and lists of runs as people read them."""

from __future__ import annotations

import math
import re
from decimal import ROUND_FLOOR, Decimal

from components.evaluator.verdict import BOUND_DIGITS, ROUNDING, telling_places

_DIGITS = 3  # of a threshold, or of its distance to 1


def percent(rate: float | None, places: int = 2) -> str:
    """A rate in percent with some digits; a dash for what is not a number."""
    return "–" if rate is None or math.isnan(rate) else f"{100 * rate:.{places}f} %"


def points(difference: float | None, places: int = 2) -> str:
    """A difference of rates in percentage points, with its sign and some digits; no minus before what rounds to 0."""
    if difference is None or math.isnan(difference):
        return "–"
    return f"{round(100 * difference, places) + 0.0:+.{places}f}".replace("-", "−")


def bound_places(bound: float | None, value: float | None = None) -> int:
    """Digits, two or more, with which `percent` and `points` show a bound as it is, and a value that is above it.

    Args:
        bound: A rate; None where the bound is off.
        value: What was measured.
    """
    if bound is None:
        return 2
    exact = len(f"{bound:.{BOUND_DIGITS}f}".rstrip("0").partition(".")[2])
    excess = 0.0 if value is None else value - bound
    return max(4, exact, telling_places(excess, 4) if excess > ROUNDING else 0) - 2


def run_name(run_id: str) -> str:
    """What tells runs apart for people: the time of its start in seconds, before it what Airflow says of it.

    Args:
        run_id: Identifier of the run in ML Metadata.
    """
    return re.sub(r"(T\d\d:\d\d:\d\d).*", r"\1", run_id).replace("/", "-")


def threshold(confidence: float) -> str:
    """A confidence to be set as a threshold: rounded down, so that it sends no image more to a person than it did.

    Args:
        confidence: From 0 to 1.
    """
    least = min(confidence, 1 - confidence)
    places = _DIGITS - 1 - math.floor(math.log10(least)) if least > 0 else 0
    shown = f"{Decimal(repr(confidence)).quantize(Decimal(1).scaleb(-places), ROUND_FLOOR):f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def band(value: str) -> str:
    """A band of lengths such as "<=08" for people; other values of a slice as they are."""
    return value.replace("<=0", "≤ ").replace("<=", "≤ ") if value.startswith("<=") else value


def clock(seconds: float | None) -> str:
    """A duration as people say it, such as 3 min 20 s; empty where it is unknown."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
