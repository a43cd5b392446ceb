"""Runs that trained a line finder side by side, as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from components.report.numbers import clock, percent
from components.report.side_by_side import heading, metrics_of, settings_that_differ, table

if TYPE_CHECKING:
    from components.report.summary import RunSummary

_RATES = (("cer", "CER in found lines"), ("cer_true", "CER in true lines"), ("cer_pages", "CER of whole pages"))
_SHARES = (("f1", "F1"), ("precision", "precision"), ("recall", "recall"))


def listing(runs: Iterable[RunSummary]) -> str:
    """One line a run: when, outcome, ratio of CER, F1, pages, version, duration."""
    rows = [["run", "outcome", "ratio", "F1", "CER", "pages", "version", "took"]]
    for run in runs:
        m = run.metrics["metrics"] if run.metrics else None
        figures = [f"{m['cer_ratio']:.3f}", f"{m['f1']:.4f}", percent(m["cer"])] if m else ["", "", ""]
        pages = str(sum(run.counts["accepted"].values()) or "")
        rows.append([run.name, run.outcome, *figures, pages, run.version_text, clock(run.seconds)])
    return table(rows)


def compare(before: RunSummary, after: RunSummary) -> str:
    """What changed from one run to another.

    Args:
        before: Run A.
        after: Run B.

    Returns:
        A text of several paragraphs.

    Raises:
        NothingToCompare: A run has no figures.
    """
    a, b = metrics_of(before), metrics_of(after)
    both = a["metrics"], b["metrics"]
    rows = heading(before, after)
    rows.append(["ratio of CER", *(f"{m['cer_ratio']:.3f}" for m in both)])
    rows += [[title, *(percent(m[name]) for m in both)] for name, title in _RATES]
    rows += [[title, *(f"{m[name]:.4f}" for m in both)] for name, title in _SHARES]
    rows.append(["evaluated on", *(f"{m['pages']} pages, {m['lines']} lines" for m in both)])
    rows.append(["transcribed by", *(str(one["recogniser"]) for one in (a, b))])
    rows.append(["took", clock(before.seconds), clock(after.seconds)])
    return "\n\n".join([table(rows), *_caveats(a, b), settings_that_differ(a, b)])


def _caveats(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Why the figures cannot be compared; nothing where they can."""
    if any(a["metrics"][name] != b["metrics"][name] for name in ("pages", "lines")):
        return ["The runs were evaluated on different pages: their figures cannot be compared."]
    if a["recogniser"] != b["recogniser"]:
        return ["Different recognisers transcribed the lines: compare the ratio and F1, not the CER."]
    return []
