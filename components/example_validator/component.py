"""ExampleValidator that also looks for drift, and stops the run when something is seriously wrong with the data.

TFX's own only writes anomalies down, and compares with the schema alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx.components.example_validator import executor
from tfx.components.statistics_gen import stats_artifact_utils
from tfx.dsl.components.base import base_component, executor_spec
from tfx.dsl.io import fileio
from tfx.types import artifact_utils, channel_utils, component_spec, standard_artifacts
from tfx.utils import io_utils, json_utils, writer_utils

from components.common.console import console
from components.example_validator.divergence import numbers_apart, quantiles
from components.example_validator.thresholds import IN_WORDS, override

_DRIFT = anomalies_pb2.AnomalyInfo.COMPARATOR_JENSEN_SHANNON_DIVERGENCE_HIGH
_SHORT = "High divergence from the run before"
_MEASURE = anomalies_pb2.DriftSkewInfo.Measurement.JENSEN_SHANNON_DIVERGENCE
_Severity = anomalies_pb2.AnomalyInfo.Severity


class DataAnomalies(RuntimeError):
    """The statistics of the examples contradict the curated schema."""


class DataDrift(RuntimeError):
    """The examples differ more from those of the run before than the curated schema allows."""


class ExampleValidatorSpec(component_spec.ComponentSpec):
    """Inputs, outputs and settings of ExampleValidator."""

    PARAMETERS = {
        "exclude_splits": component_spec.ExecutionParameter(type=str),
        "fails_on_drift": component_spec.ExecutionParameter(type=int),
        "thresholds": component_spec.ExecutionParameter(type=str),
    }
    INPUTS = {
        "statistics": component_spec.ChannelParameter(type=standard_artifacts.ExampleStatistics),
        "schema": component_spec.ChannelParameter(type=standard_artifacts.Schema),
        "previous": component_spec.ChannelParameter(type=standard_artifacts.ExampleStatistics, optional=True),
    }
    OUTPUTS = {
        "anomalies": component_spec.ChannelParameter(type=standard_artifacts.ExampleAnomalies),
    }


class Executor(executor.Executor):
    """TFX's executor, then drift of the training split, then a look at what was found."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> Any:
        """Validates all splits.

        Raises:
            DataAnomalies: An anomaly of severity ERROR was found; warnings are shown only.
            DataDrift: All such anomalies are drift, which is an error where `drift.fail` says so.
        """
        result = super().Do(input_dict, output_dict, exec_properties)
        (artifact,) = output_dict["anomalies"]
        if input_dict.get("previous"):
            overrides = json_utils.loads(exec_properties["thresholds"])
            _add_drift(input_dict, artifact, overrides, bool(exec_properties["fails_on_drift"]))
        wrong: list[str] = []
        drifted: list[str] = []
        for info, sentence in _anomalies(artifact):
            if info.severity != _Severity.ERROR:
                console().print(f"  data warning: {sentence}", markup=False)
            else:
                (drifted if _only_drift(info) else wrong).append(sentence)
        if wrong:
            also = f". It has also drifted from that of the run before: {'; '.join(drifted)}" if drifted else ""
            raise DataAnomalies(
                f"The data contradicts the schema (components/example_validator/schema.pbtxt): {'; '.join(wrong)}{also}"
            )
        if drifted:
            raise DataDrift(
                f"The data has drifted from that of the run before: {'; '.join(drifted)}. If that is meant: --set "
                f"drift.fail=false, or other drift.thresholds. `htr drift` says more."
            )
        return result


def _add_drift(input_dict: dict[str, Any], artifact: Any, overrides: Mapping[str, float], fails: bool) -> None:
    """Adds drift of the training split to its anomalies, as errors or as warnings.

    TFDV's own comparison has bins of equal width, which one outlier stretches, and takes the difference that chance
    makes between a few images for drift.
    """
    (statistics,), (schema,), (previous,) = (input_dict[name] for name in ("statistics", "schema", "previous"))
    now, then = (_measured(found) for found in (statistics, previous))
    rules = io_utils.SchemaReader().read(io_utils.get_only_uri_in_dir(schema.uri))
    override(rules, overrides)
    anomalies = _read(artifact, "train")
    for feature in rules.feature:
        name = feature.name
        if not feature.HasField("drift_comparator") or name not in now or name not in then:
            continue
        allowed = feature.drift_comparator.jensen_shannon_divergence.threshold
        (before, known_at), (after, _) = (quantiles(found[name]) for found in (then, now))
        samples = then[name].common_stats.num_non_missing, now[name].common_stats.num_non_missing
        distance = numbers_apart(name, before, after, samples, known_at)
        measured = anomalies.drift_skew_info.add(path={"step": [name]}).drift_measurements
        measured.add(type=_MEASURE, value=distance, threshold=allowed)
        if distance > allowed:
            text = (
                f"median {np.median(before):.3g} in the run before, {np.median(after):.3g} now, divergence "
                f"{distance:.2f}, allowed {allowed:g}"
            )
            info = anomalies.anomaly_info[name]
            info.severity = max(info.severity, _Severity.ERROR if fails else _Severity.WARNING)
            info.description = "; ".join(filter(None, (info.description.rstrip(". "), text)))
            info.short_description = "Multiple errors" if info.reason else _SHORT
            info.reason.add(type=_DRIFT, short_description=_SHORT, description=text)
    path = os.path.join(artifact_utils.get_split_uri([artifact], "train"), executor.DEFAULT_FILE_NAME)
    writer_utils.write_anomalies(path, anomalies)


def _measured(statistics: Any) -> dict[str, Any]:
    """Statistics of the numbers of the training split, by feature."""
    (found,) = stats_artifact_utils.load_statistics(statistics, "train").proto().datasets
    return {feature.path.step[0]: feature.num_stats for feature in found.features if feature.num_stats.histograms}


def _only_drift(info: Any) -> bool:
    return {reason.type for reason in info.reason} == {_DRIFT}


def read_anomalies(artifact: Any) -> list[tuple[str, str]]:
    """Anomalies of all splits as (severity, sentence); severity is "WARNING" or "ERROR"."""
    return [(_Severity.Name(info.severity), sentence) for info, sentence in _anomalies(artifact)]


def _anomalies(artifact: Any) -> Iterator[tuple[Any, str]]:
    for split in artifact_utils.decode_split_names(artifact.split_names):
        anomalies = _read(artifact, split)
        infos = [*anomalies.anomaly_info.items()]
        if anomalies.HasField("dataset_anomaly_info"):
            infos.append(("dataset", anomalies.dataset_anomaly_info))
        for feature, info in infos:
            # Schema and `drift.thresholds` know the feature by its own name.
            words = IN_WORDS.get(feature, feature)
            place = split if words == feature else f"{feature}, {split}"
            yield info, f"{words} ({place}): {info.description.rstrip('. ')}"


def _read(artifact: Any, split: str) -> Any:
    path = os.path.join(artifact_utils.get_split_uri([artifact], split), executor.DEFAULT_FILE_NAME)
    with fileio.open(path, "rb") as file:
        return anomalies_pb2.Anomalies.FromString(file.read())


class ExampleValidator(base_component.BaseComponent):
    """Checks the statistics of every split against the curated schema, and of the training split for drift."""

    SPEC_CLASS = ExampleValidatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(
        self, statistics: Any, schema: Any, previous: Any, thresholds: Mapping[str, float], fails_on_drift: bool
    ):
        """Creates the step.

        Args:
            statistics: Channel of StatisticsGen.
            schema: Channel of the curated schema.
            previous: Channel of the statistics to compare with; None where the runner cannot find them.
            thresholds: Thresholds of drift by feature, instead of the schema's: they are a setting of this step alone,
                since the schema is an input of steps that would train again for another one.
            fails_on_drift: Whether drift ends the run instead of being a warning.
        """
        super().__init__(
            ExampleValidatorSpec(
                statistics=statistics, schema=schema, previous=previous, exclude_splits=json_utils.dumps([]),
                fails_on_drift=int(fails_on_drift), thresholds=json_utils.dumps(dict(sorted(thresholds.items()))),
                anomalies=channel_utils.as_channel([standard_artifacts.ExampleAnomalies()]),
            )
        )  # fmt: skip
