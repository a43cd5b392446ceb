"""Runs that trained a recogniser side by side, as text for a terminal."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from components.common.metrics import RANDOMISATIONS, PairedErrors
from components.common.words import some_characters
from components.report import analysis
from components.report.html import PREDICTIONS_FILE
from components.report.numbers import band, clock, percent, points
from components.report.side_by_side import changes, heading, metrics_of, settings_that_differ, table

if TYPE_CHECKING:
    from components.report.summary import RunSummary

IMAGES_SHOWN, SLICES_SHOWN = 6, 8


def listing(runs: Iterable[RunSummary]) -> str:
    """One line a run: when, verdict, CER with interval, images, data digest, version, duration."""
    rows = [["run", "outcome", "CER", "interval", "images", "data", "version", "took"]]
    for run in runs:
        metrics = run.metrics["metrics"] if run.metrics else {}
        interval = f"{percent(metrics['cer_low'])} to {percent(metrics['cer_high'])}" if metrics else ""
        rows.append(
            [run.name, run.outcome, percent(metrics["cer"]) if metrics else "", interval,
             str(sum(run.counts["accepted"].values()) or ""), run.metrics["data"]["digest"][:8] if run.metrics else "",
             run.version_text, clock(run.seconds)]
        )  # fmt: skip
    return table(rows)


def compare(before: RunSummary, after: RunSummary) -> str:
    """What changed from one run to another, and whether it is better.

    Args:
        before: Run A.
        after: Run B.

    Returns:
        A text of several paragraphs.

    Raises:
        NothingToCompare: A run has no figures.
    """
    a, b = metrics_of(before), metrics_of(after)
    rows = heading(before, after)
    for name, title in (("cer", "CER"), ("wer", "WER")):
        rows.append([title, *(f"{percent(m['metrics'][name])} ({percent(m['metrics'][f'{name}_low'])} to "
                              f"{percent(m['metrics'][f'{name}_high'])})" for m in (a, b))])  # fmt: skip
    rows.append(["exactly right", *(percent(m["metrics"]["exact"]) for m in (a, b))])
    rows.append(["data", *(f"{m['data']['digest'][:8]}, {_images(m['data'])}" for m in (a, b))])
    rows.append(["took", clock(before.seconds), clock(after.seconds)])
    tables = [analysis.read_csv(os.path.join(run.report_folder or "", PREDICTIONS_FILE)) for run in (before, after)]
    parts = [table(rows), verdict(tables, float(b["config"]["gate"]["confidence_level"]))]
    parts.append(settings_that_differ(a, b))
    packages = [[key, str(x), "->", str(y)] for key, x, y in changes(a["versions"], b["versions"])]
    if packages:
        parts.append("Versions that differ\n" + table(packages))
    if a["data"]["digest"] != b["data"]["digest"]:
        parts.append("The data differ: other images, labels or splits.")
    for name, this, other in (("A", a, b), ("B", b, a)):
        only = sorted(set(this["alphabet"]) - set(other["alphabet"]))
        if only:
            parts.append(f"Only in the alphabet of {name}: {some_characters(only)}")
    return "\n\n".join(parts)


def _images(data: Mapping[str, Any]) -> str:
    return " + ".join(f"{split['samples']} {name}" for name, split in data["splits"].items())


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """What both tables have: the same image under another label is another sample, as is each of several equal rows."""
    keys = ["id", "text"]
    first, second = (predictions.assign(repeat=predictions.groupby(keys).cumcount()) for predictions in tables)
    return first.merge(second, on=[*keys, "repeat"], suffixes=("_a", "_b"))


def verdict(tables: Sequence[pd.DataFrame], level: float) -> str:
    """Whether B is better on the images that both were evaluated on, and where.

    Args:
        tables: Predictions of A and B, with the columns of `analysis.count_edits`.
        level: Confidence level of the interval.

    Returns:
        A paragraph, followed by slices and images that changed most.
    """
    both = _joined(tables)
    if both.empty and all(predictions["source"].nunique() == 1 for predictions in tables):
        # Identifiers begin with the name of the data folder, which may be another one since.
        both = _joined([predictions.assign(id=predictions["id"].str.partition("/")[2]) for predictions in tables])
    if both.empty:
        return "The runs were evaluated on different images: their figures cannot be compared."
    paired = _paired(both)
    low, high = paired.interval(level)
    answer = {-1: "yes", 0: "that cannot be told from chance", 1: "no, it is worse"}[paired.differs(level)]
    images = f"the same {len(both)} images"
    if not len(both) == len(tables[0]) == len(tables[1]):
        images = f"the {len(both)} images that both were evaluated on (A {len(tables[0])}, B {len(tables[1])})"
    better, worse = both[both["edits_b"] < both["edits_a"]], both[both["edits_b"] > both["edits_a"]]
    p_value = "p < 0.001" if paired.p_value < 0.001 else f"p = {paired.p_value:.3f}"
    lines = [
        f"Is B better? {answer.capitalize()}: {points(paired.difference)} points of CER ({points(low)} to "
        f"{points(high)}, {p_value}) on {images}; {len(better)} are transcribed better, {len(worse)} worse."
    ]
    changed = _changed_slices(both, level)
    if changed:
        lines.append("\nSlices that changed\n" + table(changed))
    for title, part in (("better", better), ("worse", worse)):
        gain = (part["edits_b"] - part["edits_a"]).abs().sort_values(ascending=False, kind="stable")
        shown = part.loc[gain.index[:IMAGES_SHOWN]]
        if len(shown):
            lines.append(f"\nTranscribed {title} by B, most edits first")
            # One below the other, so that the eye finds the difference, and a line of a page fits into a terminal.
            for image, *texts in shown[["id", "text", "prediction_a", "prediction_b"]].values:
                lines += [image, table([*zip(("  label", "  A", "  B"), texts, strict=True)])]
    return "\n".join(lines)


def _paired(both: pd.DataFrame) -> PairedErrors:
    columns = (both[name].tolist() for name in ("edits_a", "edits_b", "length_a"))
    return PairedErrors(Counter(zip(*columns, strict=True)))


def _changed_slices(both: pd.DataFrame, level: float) -> list[list[str]]:
    """Slices that differ by more than chance, largest change of edits first."""
    found = []
    for name, title in analysis.BY_NAME.items():
        made = both.groupby(f"{name}_a")
        parts = [(value, part) for value, part in made if len(part) >= analysis.LEAST_IN_SLICE]
        if len(made) < 2 or not parts:
            continue
        # Of sixty writers, two or three differ at a level of 0.95 by chance (Bonferroni). Nothing is surer than the
        # randomisation test can tell.
        asked = min(1 - (1 - level) / len(parts), 1 - 2 / RANDOMISATIONS)
        for value, part in parts:
            if _paired(part).differs(asked):
                edits = [int(part[column].sum()) for column in ("edits_a", "edits_b")]
                rates = [percent(count / part["length_a"].sum()) for count in edits]
                row = [f"{title} {band(value) or 'unknown'}", f"{len(part)} images", rates[0], "->", rates[1]]
                found.append((abs(edits[0] - edits[1]), row))
    return [row for _, row in sorted(found, key=lambda item: -item[0])[:SLICES_SHOWN]]
