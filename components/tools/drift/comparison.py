"""Names what has drifted between two sets of images, in words and numbers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from components.common.words import counted, some, visible
from components.example_validator import thresholds
from components.example_validator.divergence import divergence, numbers_apart
from components.tools.drift.profiles import CONFIDENCE, Profile
from htr_client.metrics import Metric, page

FEW = 50
# Decimals of confidences in logs of earlier clients, and the share of others that may have as few, such as 0 and 1.
_DECIMALS, _FEW_BY_CHANCE = 4, 0.1
_NAMES = {
    **thresholds.IN_WORDS, CONFIDENCE: "confidence", "characters": "characters",
    "new_characters": "labels with new characters", "rejected": "rejected rows",
}  # fmt: skip
# What a measure that has fallen or risen usually means.
_MEANING = {
    "width": ("narrower images", "wider images"),
    "height": ("lower images: cut closer or scanned with fewer pixels", "higher images: more rows or more pixels"),
    "text_length": ("shorter texts", "longer texts"),
    "paper_level": ("darker paper or light", "lighter paper or light"),
    "ink_level": ("darker ink", "paler ink"),
    "ink_share": ("thinner strokes, or more paper around them", "bolder strokes, less paper around them, or stains"),
    "sharpness": ("blurred, enlarged or strongly compressed images", "sharper, smaller or noisier images"),
    CONFIDENCE: ("the model is less sure", "the model is surer"),
}  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """How far one measure is apart.

    Attributes:
        name: Key of `_NAMES`, as `drift.thresholds` takes it.
        distance: Jensen-Shannon divergence, 0 (the same) to 1 bit (nothing in common), less what chance alone makes
            between samples of these sizes; of `new_characters` (less chance, too) and `rejected` a share of rows.
        threshold: Bound that it must not exceed.
        before, after: Medians, or shares of rows; None for characters.
        text: The same in words.
    """

    name: str
    distance: float
    threshold: float
    before: float | None
    after: float | None
    text: str

    @property
    def drifted(self) -> bool:
        """Whether it is further apart than allowed."""
        return self.distance > self.threshold


@dataclass(frozen=True)
class Comparison:
    """What has drifted between two profiles.

    Attributes:
        before, after: Their names.
        samples: Accepted rows of both.
        kind: "drift" between data, "skew" against what a model was asked.
        measures: All of them, the furthest beyond its threshold first.
        notes: What was passed over on both sides, sentences.
    """

    before: str
    after: str
    samples: tuple[int, int]
    kind: thresholds.Kind
    measures: list[Measure]
    notes: Sequence[str] = ()

    @property
    def drifted(self) -> list[Measure]:
        """The measures that have drifted further than allowed."""
        return [measure for measure in self.measures if measure.drifted]

    def as_text(self) -> str:
        """For a terminal."""
        lines = [
            f"Before: {self.before}, {counted(self.samples[0], 'image')}",
            f"After:  {self.after}, {counted(self.samples[1], 'image')}",
        ]
        if min(self.samples) < FEW:
            lines.append(f"Fewer than {FEW} images say little: only great changes can be told from chance.")
        lines.append("")
        if self.drifted:
            lines += [f"Beyond their thresholds ({self.kind}):", *(f"  {measure.text}" for measure in self.drifted)]
        else:
            lines.append(f"Nothing is beyond its threshold ({self.kind}).")
        rest = [measure for measure in self.measures if not measure.drifted]
        if rest:
            near = ", ".join(f"{_NAMES[m.name]} {m.distance:.2f} of {m.threshold:g}" for m in rest)
            lines.append(f"Within their thresholds: {near}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """For machines; `moved` is what version 0.1 calls `drifted`."""
        drifted = [measure.name for measure in self.drifted]
        measures = [{**asdict(m), "drifted": m.drifted, "moved": m.drifted} for m in self.measures]
        return {
            "before": self.before, "after": self.after, "samples": list(self.samples), "kind": self.kind,
            "drifted": drifted, "moved": drifted, "measures": measures, "notes": list(self.notes),
        }  # fmt: skip

    def as_prometheus(self) -> str:
        """For the textfile collector of Prometheus' node exporter."""
        labels = ("before", "after", "measure")
        drift, allowed = (Metric(name, "gauge", labels) for name in ("htr_drift", "htr_drift_allowed"))
        images = Metric("htr_drift_images", "gauge", ("before", "after", "side"))
        for measure in self.measures:
            drift.set(measure.distance, self.before, self.after, measure.name)
            allowed.set(measure.threshold, self.before, self.after, measure.name)
        for side, count in zip(("before", "after"), self.samples, strict=True):
            images.set(count, self.before, self.after, side)
        return page([drift, allowed, images])


def compare(before: Profile, after: Profile, overrides: Mapping[str, float]) -> Comparison:
    """Compares two profiles, measure by measure.

    Args:
        before: What to compare with.
        after: What may have drifted.
        overrides: Thresholds by measure, instead of those of the curated schema and `thresholds.OWN`.
    """
    kind: thresholds.Kind = "skew" if after.predicted and not before.predicted else "drift"
    limits = {**thresholds.OWN, **overrides, **thresholds.read(kind, overrides)}
    measures = [
        _numbers(name, before, after, limits[name])
        for name in _NAMES
        if name in before.numbers and name in after.numbers
    ]
    if before.alphabet:
        measures.append(_new_characters(before, after, limits["new_characters"]))
    if before.characters:
        measures.append(_characters(before, after, limits["characters"]))
    measures.append(_rejected(before, after, limits["rejected"]))
    measures.sort(key=lambda measure: measure.threshold / max(measure.distance, 1e-9))
    notes = [*before.notes, *after.notes]
    return Comparison(before.name, after.name, (before.samples, after.samples), kind, measures, notes)


def _numbers(name: str, before: Profile, after: Profile, threshold: float) -> Measure:
    a, b = before.numbers[name], after.numbers[name]
    if name == CONFIDENCE and any(_logged_in_decimals(values) for values in (a, b)):
        a, b = a.round(_DECIMALS), b.round(_DECIMALS)
    low, high = statistics.median(a), statistics.median(b)
    # The quantiles of a run stand for all its images.
    known = before.samples if name in before.known_at else len(a)
    distance = numbers_apart(name, a, b, (known, len(b)), before.known_at.get(name))
    meaning = f": {_meaning(name, low, high)}" if distance > threshold and low != high else ""
    return Measure(
        name, distance, threshold, float(low), float(high),
        f"{_NAMES[name]}: median {low:.3g} -> {high:.3g}, divergence {distance:.2f}, allowed {threshold:g}{meaning}",
    )  # fmt: skip


def _logged_in_decimals(confidences: np.ndarray) -> bool:
    """Whether some are from logs of earlier clients, where those of most long lines are 0.0000."""
    return bool(np.mean(confidences == confidences.round(_DECIMALS)) > _FEW_BY_CHANCE)


def _meaning(name: str, before: float, after: float) -> str:
    if name == "ink_share" and before < 0.5 < after:
        return "most images are light on dark, as if inverted"
    return _MEANING[name][bool(after > before)]


def _characters(before: Profile, after: Profile, threshold: float) -> Measure:
    names = sorted({*before.characters, *after.characters})
    a, b = (np.array([profile.characters[c] for c in names], np.float64) for profile in (before, after))
    distance = divergence(a, b) if a.sum() and b.sum() else 0.0
    change = b / max(b.sum(), 1) - a / max(a.sum(), 1)
    largest = sorted(range(len(names)), key=lambda i: -abs(change[i]))[:5]
    shown = ", ".join(
        f"{visible(names[i])} {a[i] / max(a.sum(), 1):.1%} -> {b[i] / max(b.sum(), 1):.1%}" for i in largest
    )
    return Measure("characters", distance, threshold, None, None, f"characters: divergence {distance:.2f}, allowed "
                   f"{threshold:g}; most of all {shown}")  # fmt: skip


def _new_characters(before: Profile, after: Profile, threshold: float) -> Measure:
    new = {c: count for c, count in after.characters.most_common() if c not in before.alphabet}
    share = after.labels_with(new) / after.samples
    shown = some([f"{visible(c)} ({count})" for c, count in new.items()], 12)
    # More of the same has new characters, too: in as many labels as those before that alone hold one (Good 1953). A run
    # does not tell its labels; there each such character counts for one.
    once = {c for c, count in before.characters.items() if count == 1}
    seldom = (before.labels_with(once) if before.texts else len(once)) / before.samples
    spread = math.sqrt(max(seldom, 1 / before.samples) * (1 / before.samples + 1 / after.samples))
    chance = seldom + 2 * spread
    return Measure("new_characters", max(share - chance, 0.0), threshold, seldom, share, f"labels with characters that "
                   f"were never seen before: {share:.1%}, chance explains {chance:.1%}, allowed {threshold:.1%} more: "
                   f"{shown or 'none'}")  # fmt: skip


def _rejected(before: Profile, after: Profile, threshold: float) -> Measure:
    a, b = (
        sum(profile.rejected.values()) / (profile.accepted + sum(profile.rejected.values()))
        for profile in (before, after)
    )
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(after.rejected.items(), key=lambda x: -x[1]))
    return Measure("rejected", max(b - a, 0.0), threshold, a, b, f"rejected rows: {a:.1%} -> {b:.1%}, allowed "
                   f"{threshold:.1%} more{f' ({reasons})' if reasons else ''}")  # fmt: skip
