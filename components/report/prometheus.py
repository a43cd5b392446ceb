"""Figures of runs for Prometheus, as a file for the textfile collector of its node exporter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from htr_client.metrics import Metric, page

if TYPE_CHECKING:
    from components.report.summary import RunSummary

NEWEST = 30  # runs, since every figure of one is a series
_RATES = {"text": ("cer", "cer_low", "cer_high", "wer"), "pages": ("cer", "cer_true", "cer_ratio", "f1")}


def runs_page(runs: Iterable[RunSummary], model: str, task: str = "text") -> str:
    """Figures by run: outcome, error rates, images, rejected rows, drift, duration.

    Args:
        runs: Runs, of which one that did not come so far has fewer figures.
        model: Name of what they push, by which pages of several pipelines on a machine are told apart.
        task: What they train: "text", a recogniser, or "pages", a line finder.
    """
    info = Metric("htr_run_info", "gauge", ("model", "run", "outcome", "version"))
    seconds = Metric("htr_run_seconds", "gauge", ("model", "run"))
    rates = {name: Metric(f"htr_run_{name}", "gauge", ("model", "run")) for name in _RATES[task]}
    images = Metric("htr_run_images", "gauge", ("model", "run", "split"))
    rejected = Metric("htr_run_rejected_rows", "gauge", ("model", "run", "reason"))
    drift = Metric("htr_run_drift", "gauge", ("model", "run", "measure"))
    allowed = Metric("htr_run_drift_allowed", "gauge", ("model", "run", "measure"))
    for run in runs:
        info.set(1, model, run.name, run.outcome, str(run.version or ""))
        if run.seconds is not None:
            seconds.set(run.seconds, model, run.name)
        for name, metric in rates.items():
            if run.metrics:
                metric.set(run.metrics["metrics"][name], model, run.name)
        for split, count in run.counts["accepted"].items():
            images.set(count, model, run.name, split)
        for reason, count in run.counts["rejected"].items():
            rejected.set(count, model, run.name, reason)
        for measure, (value, threshold) in run.drift.items():
            drift.set(value, model, run.name, measure)
            allowed.set(threshold, model, run.name, measure)
    return page([info, seconds, *rates.values(), images, rejected, drift, allowed])
