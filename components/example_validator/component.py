"""ExampleValidator that stops the run when the data has serious anomalies, instead of only writing them down."""

from __future__ import annotations

import os
from typing import Any

from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx.components.example_validator import component, executor
from tfx.dsl.components.base import executor_spec
from tfx.dsl.io import fileio
from tfx.types import artifact_utils

from pipeline.console import console


class DataAnomalies(RuntimeError):
    """The statistics of the examples contradict the curated schema."""


class Executor(executor.Executor):
    """TFX's executor, then a look at what it found."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> Any:
        """Validates all splits.

        Raises:
            DataAnomalies: an anomaly of severity ERROR was found; warnings are shown only.
        """
        result = super().Do(input_dict, output_dict, exec_properties)
        (artifact,) = output_dict["anomalies"]
        serious = []
        for severity, sentence in read_anomalies(artifact):
            if severity == "ERROR":
                serious.append(sentence)
            else:
                console().print(f"  data warning: {sentence}")
        if serious:
            raise DataAnomalies(
                "The data contradicts the schema (components/example_validator/schema.pbtxt): " + "; ".join(serious)
            )
        return result


def read_anomalies(artifact: Any) -> list[tuple[str, str]]:
    """Anomalies of all splits as (severity, sentence); severity is "WARNING" or "ERROR"."""
    found = []
    for split in artifact_utils.decode_split_names(artifact.split_names):
        path = os.path.join(artifact_utils.get_split_uri([artifact], split), executor.DEFAULT_FILE_NAME)
        anomalies = anomalies_pb2.Anomalies()
        with fileio.open(path, "rb") as file:
            anomalies.ParseFromString(file.read())
        infos = [*anomalies.anomaly_info.items()]
        if anomalies.HasField("dataset_anomaly_info"):
            infos.append(("dataset", anomalies.dataset_anomaly_info))
        for feature, info in infos:
            severity = anomalies_pb2.AnomalyInfo.Severity.Name(info.severity)
            found.append((severity, f"{feature} ({split}): {info.description}"))
    return found


class CuratedExampleValidator(component.ExampleValidator):
    """Checks the statistics of every split against the curated schema."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)
