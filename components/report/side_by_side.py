"""What listings and comparisons of runs have in common, whatever the runs trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.report.summary import RunSummary

ABSENT = "(not there)"
"""Stands for what only the other run has, such as a setting that came with a later release."""


class NothingToCompare(LookupError):
    """A run has no figures; the message names it."""


def metrics_of(run: RunSummary) -> dict[str, Any]:
    """What the report of a run tells programs.

    Raises:
        NothingToCompare: It has none.
    """
    if run.metrics is None:
        raise NothingToCompare(f"The run {run.name} has no figures to compare: {run.outcome}.")
    return run.metrics


def heading(before: RunSummary, after: RunSummary) -> list[list[str]]:
    """First rows of a comparison: names, outcomes and versions of two runs."""
    return [
        ["", f"A  {before.name}", f"B  {after.name}"],
        ["outcome", before.outcome, after.outcome],
        ["version", before.version_text or "none", after.version_text or "none"],
    ]


def settings_that_differ(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """A paragraph about the configurations of two runs, from their metrics."""
    changed = [[key, _setting(x), "->", _setting(y)] for key, x, y in changes(before["config"], after["config"])]
    return "Settings that differ\n" + table(changed) if changed else "The settings are the same."


def _setting(value: Any) -> str:
    """As one writes it in a configuration."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def changes(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    """Dotted names of the values that differ, with both values, or `ABSENT`."""
    found = []
    for key in [*before, *(key for key in after if key not in before)]:
        a, b = before.get(key, ABSENT), after.get(key, ABSENT)
        old, new = ({} if value is ABSENT else value for value in (a, b))
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += changes(old, new, f"{prefix}{key}.")
        elif a != b:
            found.append((f"{prefix}{key}", a, b))
    return found


def table(rows: Sequence[Sequence[Any]]) -> str:
    """Text in columns of equal width, two spaces apart."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in texts) for i in range(len(texts[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in texts
    )
