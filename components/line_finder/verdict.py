"""The gate of a line finder: what was measured, which bounds it misses, in numbers and words. No TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from components.common import storage
from components.evaluator.verdict import ROUNDING, Baseline, telling_places
from components.line_finder.measuring import TextErrors
from components.line_finder.metric import LineScore
from components.line_finder.settings import LineGateConfig

VERDICT_FILE, PAGES_FILE = "verdict.json", "pages.json"
"""Files of the evaluation artifact, see `components.line_finder.steps.evaluator`."""


@dataclass(frozen=True)
class MeasuredBound:
    """A bound of the gate, and what it was compared with.

    Attributes:
        setting: Name of the setting, such as `line_gate.min_f1`.
        value: What was measured; None where there is no baseline to compare with.
        bound: What is allowed; None where the setting is off.
        met: Whether the value is within the bound; None where nothing was asked.
    """

    setting: str
    value: float | None
    bound: float | None
    met: bool | None


@dataclass(frozen=True)
class LineVerdict:
    """What the Evaluator of the pipeline of pages found.

    Attributes:
        blessed: Whether the line finder may ship.
        metrics: Metrics of the candidate: `pages`, `lines`, `found`, `precision`, `recall`, `f1`, `cer_true` (of the
            true lines), `cer` (of the true lines, read in the found ones), `cer_pages` (of whole pages), `cer_ratio`.
        baseline: The same of the baseline on the same pages; None where there was none.
        failures: Missed bounds, sentences.
        compared_with: What the baseline is, or why there is none.
        off: Settings of the gate that are null, so that nothing was asked.
        recogniser: What transcribed the lines.
        bounds: All bounds of the gate.
    """

    blessed: bool
    metrics: dict[str, float]
    baseline: dict[str, float] | None
    failures: list[str]
    compared_with: Baseline
    off: list[str]
    recogniser: str
    bounds: list[MeasuredBound]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` is the way back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LineVerdict:
        """From what `as_dict` made."""
        parts = {
            "compared_with": Baseline(**values["compared_with"]),
            "bounds": [MeasuredBound(**row) for row in values["bounds"]],
        }
        return cls(**{**values, **parts})


def metrics_of(pages: int, score: LineScore, errors: TextErrors) -> dict[str, float]:
    """The metrics of a line finder, as `LineVerdict` has them.

    Args:
        pages: Number of pages.
        score: Score of their lines.
        errors: Errors of what was read; at least one line has a label.
    """
    return {
        "pages": pages, "lines": score.true, "found": score.found, "precision": score.precision,
        "recall": score.recall, "f1": score.f1, "cer_true": errors.true.rate, "cer": errors.found.rate,
        "cer_pages": errors.pages.rate, "cer_ratio": errors.ratio,
    }  # fmt: skip


def decide(
    gate: LineGateConfig,
    metrics: Mapping[str, float],
    baseline: Mapping[str, float] | None,
    compared_with: Baseline,
    unchanged: str,
    recogniser: str,
) -> LineVerdict:
    """Compares what was measured with the bounds.

    Args:
        gate: The bounds.
        metrics: Metrics of the candidate.
        baseline: Metrics of the line finder that it is compared with, on the same pages.
        compared_with: What that is.
        unchanged: Line finder that the candidate is still, since no epoch was better; else empty.
        recogniser: What transcribed the lines.

    Returns:
        The verdict.
    """
    failures = []
    ratio, f1 = metrics["cer_ratio"], metrics["f1"]
    increase = ratio - baseline["cer_ratio"] if baseline is not None else None
    bounds = [
        _bound("max_cer_ratio", ratio, gate.max_cer_ratio),
        _bound("min_f1", f1, gate.min_f1, least=True),
        _bound("max_ratio_increase", increase, gate.max_ratio_increase),
    ]
    ratio_met, f1_met, increase_met = (row.met for row in bounds)
    if gate.max_cer_ratio is not None and ratio_met is False:
        places = telling_places(ratio - gate.max_cer_ratio, 3)
        failures.append(
            f"CER in the found lines is {metrics['cer']:.4f}, {ratio:.{places}f} times that in the true lines "
            f"({metrics['cer_true']:.4f}); line_gate.max_cer_ratio allows {gate.max_cer_ratio:g}"
        )
    if gate.min_f1 is not None and f1_met is False:
        places = telling_places(gate.min_f1 - f1, 4)
        failures.append(
            f"F1 of the lines is {f1:.{places}f} (precision {metrics['precision']:.4f}, "
            f"recall {metrics['recall']:.4f}); line_gate.min_f1 asks for {gate.min_f1:g}"
        )
    if baseline and increase is not None and gate.max_ratio_increase is not None and increase_met is False:
        places = telling_places(increase - gate.max_ratio_increase, 3)
        failures.append(
            f"the ratio of CER is {increase:+.{places}f} against {compared_with}, whose lines give "
            f"{baseline['cer_ratio']:.{places}f}; line_gate.max_ratio_increase allows {gate.max_ratio_increase:+g}"
        )
    if unchanged:
        failures.append(
            f"no epoch found the lines of the validation pages better than {unchanged}, which the training started "
            "from, so this would be that one again, which needs no other push: label more pages, or lower "
            "line_training.learning_rate"
        )
    return LineVerdict(
        blessed=not failures,
        metrics=dict(metrics),
        baseline=dict(baseline) if baseline is not None else None,
        failures=failures,
        compared_with=compared_with,
        off=[row.setting for row in bounds if row.bound is None],
        recogniser=recogniser,
        bounds=bounds,
    )


def _bound(name: str, value: float | None, bound: float | None, least: bool = False) -> MeasuredBound:
    met = None
    if value is not None and bound is not None:
        met = not (value < bound - ROUNDING if least else value > bound + ROUNDING)
    return MeasuredBound(f"line_gate.{name}", value, bound, met)


def read_verdict(evaluation_uri: str) -> LineVerdict:
    """Reads the verdict of an evaluation artifact.

    Args:
        evaluation_uri: URI of the ModelEvaluation artifact.
    """
    return LineVerdict.from_dict(json.loads(storage.read(f"{evaluation_uri}/{VERDICT_FILE}")))
