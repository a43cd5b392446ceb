"""What Evaluator has written, read with TFMA: the verdict on a model, its metrics, what it was compared with."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2

from components.common import storage
from components.evaluator.slices import prefix
from components.evaluator.verdict import BOUND_DIGITS, Baseline, Failure, Verdict

# In the evaluation artifact: what the candidate was compared with, and whether it is still its start.
NOTE_FILE = "gate.json"


def read_verdict(evaluation_uri: str) -> Verdict:
    """Reads an evaluation artifact.

    Args:
        evaluation_uri: URI of the ModelEvaluation artifact.

    Returns:
        Metrics and verdict.
    """
    validation = tfma.load_validation_result(evaluation_uri)
    by_model: dict[str, dict[str, dict[str, float]]] = {}
    for record in tfma.load_metrics(evaluation_uri):
        name = _slice_name(record.slice_key)
        for metric in record.metric_keys_and_values:
            values = by_model.setdefault(metric.key.model_name, {}).setdefault(name, {})
            if not metric.key.is_diff:
                values[metric.key.name] = _number(metric.value)
    candidate = by_model.get("candidate", by_model.get("", {}))
    note = f"{evaluation_uri}/{NOTE_FILE}"
    noted = json.loads(storage.read(note)) if storage.exists(note) else {}  # an earlier release wrote none
    compared_with = Baseline(**noted["compared_with"]) if noted.get("compared_with") else None
    failures = [
        _failure(failure, _slice_name(per_slice.slice_key), str(compared_with or "the model before"))
        for per_slice in validation.metric_validations_per_slice
        for failure in per_slice.failures
    ]
    failures += [Failure("samples", _spec_name(spec), 0.0, 1.0, "missing") for spec in validation.missing_slices]
    if unchanged := noted.get("unchanged"):
        serving = compared_with.in_service if compared_with else ""
        in_service = f"version {os.path.basename(serving)}" if serving else ""
        failures.append(Failure("cer", "all", 0.0, 0.0, "unchanged", unchanged, in_service))
    return Verdict(
        blessed=bool(validation.validation_ok) and not unchanged,
        metrics=candidate.get("all", {}),
        baseline=by_model.get("baseline", {}).get("all"),
        slices={name: values for name, values in sorted(candidate.items()) if name != "all"},
        failures=failures,
        compared_with=compared_with,
    )


def _spec_name(spec: config_pb2.SlicingSpec) -> str:
    return " and ".join([*spec.feature_keys, *(_named(key, value) for key, value in spec.feature_values.items())])


def _slice_name(key: Any) -> str:
    return " and ".join(_named(c.column, _slice_value(c)) for c in key.single_slice_keys) or "all"


def _named(key: str, value: str) -> str:
    return f"{key} = {value.removeprefix(prefix(key))}"  # an earlier release wrote none


def _slice_value(part: Any) -> str:
    value = getattr(part, part.WhichOneof("kind"))
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _number(value: Any) -> float:
    return value.double_value.value if value.WhichOneof("type") == "double_value" else math.nan


def _failure(failure: Any, slice_name: str, against: str) -> Failure:
    threshold = failure.metric_threshold
    if threshold.HasField("change_threshold"):
        bound, kind = threshold.change_threshold.absolute.value, "change"
    else:
        bound, kind = threshold.value_threshold.upper_bound.value, "bound"
    value = _number(failure.metric_value)
    return Failure(failure.metric_key.name, slice_name, value, round(bound, BOUND_DIGITS), kind, against)
