"""CER and WER for TensorFlow Model Analysis, over string labels and predictions; the arithmetic is in metrics.py."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import apache_beam as beam
import numpy as np
from tensorflow_model_analysis.metrics import metric_types, metric_util

from components.common.metrics import ErrorCounts, Unit

Statistic = Literal["rate", "low", "high", "edits", "length", "samples", "exact"]


class _CountErrors(beam.CombineFn):
    def __init__(self, key: metric_types.MetricKey, unit: Unit, model_name: str, output_name: str, eval_config: Any):
        self._key, self._unit = key, unit
        self._arguments = {"eval_config": eval_config, "model_name": model_name, "output_name": output_name}

    def create_accumulator(self) -> ErrorCounts:
        return ErrorCounts()

    def add_input(self, counts: ErrorCounts, element: Any) -> ErrorCounts:
        (inputs,) = metric_util.to_label_prediction_example_weight(
            element, **self._arguments, flatten=False, squeeze=False, example_weighted=False
        )
        for label, prediction in zip(np.ravel(inputs[0]), np.ravel(inputs[1]), strict=True):
            counts.add(_text(label), _text(prediction), self._unit)
        return counts

    def merge_accumulators(self, accumulators: Iterable[ErrorCounts]) -> ErrorCounts:
        return ErrorCounts().merge(accumulators)

    def extract_output(self, counts: ErrorCounts) -> dict[metric_types.MetricKey, ErrorCounts]:
        return {self._key: counts}


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _computations(
    name: str,
    unit: Unit,
    statistic: Statistic,
    level: float,
    prediction: str = "",
    eval_config: Any = None,
    model_name: str = "",
    output_name: str = "",
    **_: Any,
) -> list[Any]:
    # All statistics of a unit share one pass over the texts: TFMA runs computations with the same key once.
    counts_key = metric_types.MetricKey(f"_{unit}_errors_{prediction}", model_name=model_name, output_name=output_name)
    key = metric_types.MetricKey(name, model_name=model_name, output_name=output_name)

    def derive(metrics: dict[metric_types.MetricKey, Any]) -> dict[metric_types.MetricKey, float]:
        counts: ErrorCounts = metrics[counts_key]
        if statistic in ("low", "high"):
            return {key: counts.interval(level)[statistic == "high"]}
        return {key: float(getattr(counts, statistic))}

    if prediction:
        other, eval_config = eval_config, type(eval_config)()
        eval_config.CopyFrom(other)
        for spec in eval_config.model_specs:
            spec.prediction_key = prediction
    combiner = _CountErrors(counts_key, unit, model_name, output_name, eval_config)
    return [
        metric_types.MetricComputation(keys=[counts_key], preprocessors=None, combiner=combiner),
        metric_types.DerivedMetricComputation(keys=[key], result=derive),
    ]


class ErrorRate(metric_types.Metric):
    """One statistic of the errors: the rate, an end of its bootstrap interval, or a count."""

    def __init__(
        self,
        name: str = "cer",
        unit: Unit = "character",
        statistic: Statistic = "rate",
        level: float = 0.95,
        prediction: str = "",
    ):
        """Chooses unit and statistic.

        Args:
            name: of the metric in results and thresholds.
            unit: "character" (CER) or "word" (WER).
            statistic: what to report of the errors.
            level: coverage of the interval.
            prediction: which of the predictions; that of the evaluation's configuration if empty.
        """
        create = metric_util.merge_per_key_computations(_computations)
        super().__init__(create, name=name, unit=unit, statistic=statistic, level=level, prediction=prediction)


metric_types.register_metric(ErrorRate)
