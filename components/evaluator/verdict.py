"""What the gate decided about a model, in numbers and words. No TensorFlow: whoever lists runs need not load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from components.common import storage

# In the artifact of the step Baseline, beside the model.
BASELINE_FILE = "baseline.json"
BOUND_DIGITS = 8
"""Decimal places of a bound that count."""
# 4/200 - 3/200 is more than 0.005 by a last digit, and 0.7 % less than 7/1000. What is equal is within the bound. One
# edit is more than this in any evaluation.
ROUNDING = 10.0 ** -(BOUND_DIGITS + 1)
"""By how much a value may be beyond a bound, as floats are compared."""


def telling_places(excess: float, least: int) -> int:
    """Decimal places with which a value is told from the bound that it misses.

    Args:
        excess: By how much it misses the bound.
        least: As many as are shown in any case.
    """
    return next((n for n in range(least, BOUND_DIGITS + 1) if round(excess, n) > 0), BOUND_DIGITS + 1)


@dataclass(frozen=True)
class GateBound:
    """A bound of the gate.

    Attributes:
        setting: Setting that holds what is allowed, such as "gate.max_cer".
        metric: Metric that is bounded, one of those that `bounds.eval_config` names.
        what: The metric in words.
        kind: "bound" for the metric itself, "change" for its increase over the baseline.
        by_slice: Whether the setting holds a bound for each of some slices, instead of one for all images.
    """

    setting: str
    metric: str
    what: str
    kind: Literal["bound", "change"] = "bound"
    by_slice: bool = False

    def allowed(self, gate: Any) -> Any:
        """What the setting says, in the section `gate` of a configuration; None where it is off."""
        return getattr(gate, self.setting.partition(".")[2])


MAX_CER = GateBound("gate.max_cer", "cer_high", "the upper end of the CER's interval")
# A new bound is a setting of `GateConfig` and a row here: Evaluator's thresholds, the words of a failure, the rows of
# the report and what is told to be off follow.
GATE_BOUNDS = (
    MAX_CER,
    GateBound("gate.max_cer_increase", "cer", "CER", kind="change"),
    GateBound("gate.slice_max_cer", "cer", "CER", by_slice=True),
)


@dataclass(frozen=True)
class Baseline:
    """What a candidate is compared with.

    Attributes:
        kind: "in_service"; "warm_start", the model that the training started from; "base_model", the same where it is
            the one that is shipped; "none"; or "off", by `gate.baseline=none`.
        version: Number of the version in service.
        path: Directory of the SavedModel; empty where there is none.
        digest: Digest of its files, so that other content is another baseline.
        reason: Why there is none.
        passed_over: Directory of the version in service, where `gate.baseline=none` passes over it.
    """

    kind: Literal["in_service", "warm_start", "base_model", "none", "off"]
    version: int | None = None
    path: str = ""
    digest: str = ""
    reason: str = ""
    passed_over: str = ""

    @property
    def in_service(self) -> str:
        """Directory of the version in service; empty where there is none, or where it is the candidate."""
        return self.path if self.kind == "in_service" else self.passed_over

    def __str__(self) -> str:
        if self.kind == "in_service":
            return f"version {self.version} (in service)"
        if self.kind == "base_model":
            return "the base model that the training started from"
        if self.kind == "warm_start":
            return f"the version that the training started from ({self.path})"
        return f"nothing ({'gate.baseline=none: ' if self.kind == 'off' else ''}{self.reason})"

    def as_json(self) -> str:
        """As text; `from_json` is the way back."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Baseline:
        """From what `as_json` made."""
        return cls(**json.loads(text))

    @classmethod
    def noted_in(cls, artifact_uri: str) -> Baseline | None:
        """The note that the step Baseline leaves in its artifact; None where there is none."""
        path = f"{artifact_uri}/{BASELINE_FILE}"
        return cls.from_json(storage.read(path)) if storage.exists(path) else None


@dataclass(frozen=True)
class Failure:
    """One missed bound.

    Attributes:
        metric: Name of the metric.
        slice: Name of the slice, such as "writer = 7", or "all".
        value: Value that was measured.
        bound: What it should have been at most.
        kind: "bound", "change" against the baseline, "missing" for a bounded slice without images, or "unchanged" for
            a model that is still the one that its training started from.
        against: The baseline in words, for "change"; what it started from, for "unchanged".
        in_service: Version in service in words, for "unchanged" against a base model; empty where there is none.
    """

    metric: str
    slice: str
    value: float
    bound: float
    kind: str
    against: str = "the model before"
    in_service: str = ""

    def misses(self, bound: GateBound) -> bool:
        """Whether it is this bound that was missed, for all images or a slice that has some."""
        asked = (bound.metric, bound.kind, bound.by_slice)
        return asked == (self.metric, self.kind, self.slice != "all")

    def __str__(self) -> str:
        if self.kind == "missing":
            return (
                f"gate.slice_max_cer bounds {self.slice}, but the evaluation split has no image of it: take the bound "
                f"out, or see to it that the split has some (a split column, data.split_salt)"
            )
        if self.kind == "unchanged":
            known = "which serves without a run (htr read, htr serve)"
            if self.against.startswith("version"):
                known = "which is pushed"
            elif self.in_service:
                known = f"and {self.in_service} stays in service (htr read --base PRESET takes the base model)"
            # A version counts as unchanged only with the same language model; beside a base model, it is another one.
            but = "" if self.against.startswith("version") else ", but for its language model,"
            return (
                f"no epoch transcribed the validation images better than {self.against}, which the training started "
                f"from, so{but} this would be that model again, {known}: lower train.learning_rate, or label "
                "more images"
            )
        where = "" if self.slice == "all" else f" for {self.slice}"
        excess = self.value - self.bound
        places = telling_places(excess, 4)
        more = f"{excess:.{places}f} too much"
        unknown = GateBound("the gate", self.metric, self.metric)  # another release may have asked for something else
        missed = next(filter(self.misses, GATE_BOUNDS), unknown)
        if self.kind == "change":
            return (
                f"{missed.what}{where} is {self.value:+.{places}f} against {self.against}, "
                f"{missed.setting} allows {self.bound:+.{places}f}: {more}"
            )
        return f"{missed.what}{where} is {self.value:.{places}f}, {missed.setting} allows {self.bound:g}: {more}"


@dataclass(frozen=True)
class Verdict:
    """What the Evaluator found.

    Attributes:
        blessed: Whether the model may ship.
        metrics: Metrics of the candidate over all samples, by name.
        baseline: Metrics of the baseline on the same samples; None where there was none.
        slices: Metrics of the candidate by slice name such as "writer = 7".
        failures: Missed bounds.
        compared_with: What the baseline is, or why there is none; None in a verdict of an earlier release.
    """

    blessed: bool
    metrics: dict[str, float]
    baseline: dict[str, float] | None
    slices: dict[str, dict[str, float]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    compared_with: Baseline | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which keeps every digit; `from_dict` is the way back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Verdict:
        """From what `as_dict` made."""
        compared_with = values.get("compared_with")
        return cls(
            **{
                **{name: value for name, value in values.items() if name != "off"},  # older ones noted it
                "failures": [Failure(**failure) for failure in values["failures"]],
                "compared_with": Baseline(**compared_with) if compared_with else None,
            }
        )
