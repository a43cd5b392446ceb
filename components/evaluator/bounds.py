"""The bounds that a model must meet to be blessed, and what is measured for them, as Evaluator is told."""

from __future__ import annotations

import json
import math
from collections import defaultdict

from tensorflow_model_analysis.proto import config_pb2

from components.evaluator.settings import GateConfig
from components.evaluator.slices import SLICES, prefix
from components.evaluator.verdict import GATE_BOUNDS, ROUNDING
from components.recogniser.decoders import DECODERS

_MODULE = "components.evaluator.tfma_metrics"


def eval_config(gate: GateConfig) -> config_pb2.EvalConfig:
    """What TFX Evaluator measures, and the bounds of the gate.

    Args:
        gate: The bounds.

    Returns:
        CER (`cer`, `cer_low`, `cer_high`), WER (`wer`, ...), `exact` and `samples` of the texts that the gate
        evaluates, and CER by decoder (`cer_default`, `cer_best_path`), overall and by `SLICES`.
    """
    # Per slice throughout: a plain threshold of a metric would hold for every slice that is computed.
    everything = config_pb2.SlicingSpec()
    # The interval's upper end: with few samples a good mean may be luck. Slices are often that small, so there the
    # rate itself is evaluated.
    # What is off has an infinite bound: TFX blesses no model without any bound.
    thresholds: dict[str, list[config_pb2.PerSliceMetricThreshold]] = defaultdict(list)
    for bound in GATE_BOUNDS:
        allowed = bound.allowed(gate)
        asked = [(everything, allowed)]
        if bound.by_slice:
            asked = [(_slicing_spec(name), value) for name, value in sorted(allowed.items())]
        made = _change if bound.kind == "change" else _bound
        thresholds[bound.metric] += [_threshold(slicing, made(value)) for slicing, value in asked]
    metrics = []
    for name, unit, statistic in (
        ("cer", "character", "rate"), ("cer_low", "character", "low"), ("cer_high", "character", "high"),
        ("character_edits", "character", "edits"), ("characters", "character", "length"),
        ("samples", "character", "samples"), ("exact", "character", "exact"),
        ("wer", "word", "rate"), ("wer_low", "word", "low"), ("wer_high", "word", "high"),
        *((f"cer_{decoder}", "character", "rate") for decoder in DECODERS),
    ):  # fmt: skip
        config = {"name": name, "unit": unit, "statistic": statistic, "level": gate.confidence_level}
        if name.removeprefix("cer_") in DECODERS:
            config["prediction"] = name.removeprefix("cer_")
        metrics.append(
            config_pb2.MetricConfig(
                class_name="ErrorRate", module=_MODULE, config=json.dumps(config),
                per_slice_thresholds=thresholds.get(name),
            )
        )  # fmt: skip
    # Without prediction_key TFMA would compare the label with some output and say nothing.
    spec = {"label_key": "text", "prediction_key": gate.decoder}
    return config_pb2.EvalConfig(
        model_specs=[
            config_pb2.ModelSpec(name="candidate", **spec),
            config_pb2.ModelSpec(name="baseline", is_baseline=True, **spec),
        ],
        slicing_specs=[config_pb2.SlicingSpec()]
        + [config_pb2.SlicingSpec(feature_keys=[key]) for key in SLICES]
        + [_slicing_spec(name) for name in sorted(gate.slice_max_cer) if "=" in name],
        metrics_specs=[config_pb2.MetricsSpec(metrics=metrics)],
    )


def _bound(value: float | None) -> config_pb2.MetricThreshold:
    bound = {"value": math.inf if value is None else value + ROUNDING}
    return config_pb2.MetricThreshold(value_threshold=config_pb2.GenericValueThreshold(upper_bound=bound))


def _change(value: float | None) -> config_pb2.MetricThreshold:
    change = config_pb2.GenericChangeThreshold(
        direction=config_pb2.LOWER_IS_BETTER, absolute={"value": math.inf if value is None else value + ROUNDING}
    )
    return config_pb2.MetricThreshold(change_threshold=change)


def _threshold(
    slicing: config_pb2.SlicingSpec, threshold: config_pb2.MetricThreshold
) -> config_pb2.PerSliceMetricThreshold:
    return config_pb2.PerSliceMetricThreshold(slicing_specs=[slicing], threshold=threshold)


def _slicing_spec(name: str) -> config_pb2.SlicingSpec:
    key, equals, value = name.partition("=")
    if equals:
        return config_pb2.SlicingSpec(feature_values={key: prefix(key) + value})
    return config_pb2.SlicingSpec(feature_keys=[key])
