"""Figures of runs for Prometheus, as a file for the textfile collector of its node exporter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from htr_client.metrics import Metric, page

if TYPE_CHECKING:
    from components.report.summary import RunSummary

NEWEST = 30  # runs, since every figure of one is a series
_RATES = {"text": ("cer", "cer_low", "cer_high", "wer"), "pages": ("cer", "cer_true", "cer_ratio", "f1")}


def runs_page(runs: Iterable[RunSummary], task: str = "text") -> str:
    """Figures by run: outcome, error rates, images, rejected rows, drift, duration.

    Args:
        runs: Runs, of which one that did not come so far has fewer figures.
        task: What they train: "text", a recogniser, or "pages", a line finder.
    """
    info = Metric("htr_run_info", "gauge", ("run", "outcome", "version"))
    seconds = Metric("htr_run_seconds", "gauge", ("run",))
    rates = {name: Metric(f"htr_run_{name}", "gauge", ("run",)) for name in _RATES[task]}
    images = Metric("htr_run_images", "gauge", ("run", "split"))
    rejected = Metric("htr_run_rejected_rows", "gauge", ("run", "reason"))
    drift = Metric("htr_run_drift", "gauge", ("run", "measure"))
    allowed = Metric("htr_run_drift_allowed", "gauge", ("run", "measure"))
    for run in runs:
        info.set(1, run.name, run.outcome, str(run.version or ""))
        seconds.set(run.seconds, run.name)
        for name, metric in rates.items():
            if run.metrics:
                metric.set(run.metrics["metrics"][name], run.name)
        for split, count in run.counts["accepted"].items():
            images.set(count, run.name, split)
        for reason, count in run.counts["rejected"].items():
            rejected.set(count, run.name, reason)
        for measure, (value, threshold) in run.drift.items():
            drift.set(value, run.name, measure)
            allowed.set(threshold, run.name, measure)
    return page([info, seconds, *rates.values(), images, rejected, drift, allowed])
