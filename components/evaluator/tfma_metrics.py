"""CER and WER of `components.common.metrics` for TensorFlow Model Analysis, over string labels and predictions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import apache_beam as beam
from tensorflow_model_analysis.metrics import metric_types, metric_util

from components.common.metrics import ErrorCounts, Unit

Statistic = Literal["rate", "low", "high", "edits", "length", "samples", "exact"]


class _CountErrors(beam.CombineFn):
    """Counts the errors of one prediction. It takes the texts itself: TFMA's helper, which is for numbers of all kinds,
    takes ten times longer than counting, for each image once a slice, model and metric.
    """  # noqa: D205

    def __init__(self, key: metric_types.MetricKey, unit: Unit, model_name: str, prediction: str):
        self._key, self._unit, self._model_name, self._prediction = key, unit, model_name, prediction

    def create_accumulator(self) -> ErrorCounts:
        return ErrorCounts()

    def add_input(self, counts: ErrorCounts, element: Any) -> ErrorCounts:
        labels, predictions = element.labels, element.predictions
        if self._model_name:  # where there is one model, TFMA leaves its name out
            labels, predictions = labels[self._model_name], predictions[self._model_name]
        for label, prediction in zip(labels.ravel(), predictions[self._prediction].ravel(), strict=True):
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

    # The gate decides with the same prediction for all models.
    combiner = _CountErrors(counts_key, unit, model_name, prediction or eval_config.model_specs[0].prediction_key)
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
            name: Name of the metric in results and thresholds.
            unit: "character" (CER) or "word" (WER).
            statistic: What to report of the errors.
            level: Coverage of the interval.
            prediction: Name of the prediction; that of the evaluation's configuration if empty.
        """
        create = metric_util.merge_per_key_computations(_computations)
        super().__init__(create, name=name, unit=unit, statistic=statistic, level=level, prediction=prediction)


metric_types.register_metric(ErrorRate)
