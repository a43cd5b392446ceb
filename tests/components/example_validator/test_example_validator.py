"""ExampleValidator tells drift from chance, and data that contradicts the schema from drift."""

import re

import numpy as np
import pandas as pd
import pytest
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import io_utils

from components.example_validator import component
from components.example_validator.divergence import QUANTILES

pytestmark = pytest.mark.either_stack


def artifact(kind, folder):
    made = kind()
    made.uri = str(folder)
    return made


def measured(folder, kept=QUANTILES, **splits):
    """Statistics of columns by split, as StatisticsGen leaves them."""
    made = artifact(standard_artifacts.ExampleStatistics, folder)
    made.split_names = artifact_utils.encode_split_names(list(splits))
    for split, columns in splits.items():
        options = tfdv.StatsOptions(num_quantiles_histogram_buckets=kept)
        found = tfdv.generate_statistics_from_dataframe(pd.DataFrame(columns), options)
        path = folder / f"Split-{split}" / "FeatureStats.pb"
        path.parent.mkdir(parents=True)
        path.write_bytes(found.SerializeToString())
    return made


def validate(folder, rules, now, then, fails=1, thresholds="{}"):
    """What the step wrote down, as (severity, sentence)."""
    schema = artifact(standard_artifacts.Schema, folder / "schema")
    io_utils.write_pbtxt_file(str(folder / "schema" / "schema.pbtxt"), rules)
    inputs = {"statistics": [now], "schema": [schema], "previous": [then]}
    anomalies = artifact(standard_artifacts.ExampleAnomalies, folder / "anomalies")
    settings = {"exclude_splits": "[]", "fails_on_drift": fails, "thresholds": thresholds}
    component.Executor().Do(inputs, {"anomalies": [anomalies]}, settings)
    return component.read_anomalies(anomalies)


def of_number(name):
    rules = schema_pb2.Schema()
    rules.feature.add(name=name, type=schema_pb2.FLOAT).drift_comparator.jensen_shannon_divergence.threshold = 0.2
    return rules


@pytest.mark.parametrize("kept", [10, QUANTILES], ids=["after a run of 0.1.0", "after a run"])
@pytest.mark.parametrize(("images", "outliers"), [(30, 0), (100, 0), (300, 2)])
def test_more_of_the_same_is_no_drift(tmp_path, images, outliers, kept):
    for draw in range(4):
        source, folder = np.random.default_rng(draw), tmp_path / str(draw)
        before, after = (source.lognormal(-1.5, 0.3, images).astype(np.float32) for _ in range(2))
        after[:outliers] = 30  # stretch bins of equal width
        then = measured(folder / "then", kept, train={"sharpness": before})
        now = measured(folder / "now", train={"sharpness": after})
        assert validate(folder, of_number("sharpness"), now, then) == []


def test_drift_is_told_in_numbers(tmp_path):
    source = np.random.default_rng(0)
    then = measured(tmp_path / "then", train={"sharpness": source.normal(0.2, 0.02, 100)})
    now = measured(tmp_path / "now", train={"sharpness": source.normal(0.1, 0.02, 100)})
    ((severity, sentence),) = validate(tmp_path, of_number("sharpness"), now, then, fails=0)
    assert severity == "WARNING"
    medians = r"median 0\.2\d* in the run before, 0\.09\d* now"
    assert re.fullmatch(rf"sharpness \(train\): {medians}, divergence 0\.9\d, allowed 0\.2", sentence)
    with pytest.raises(component.DataDrift, match=r"sharpness \(train\): .*allowed 0\.2\. If that is meant"):
        validate(tmp_path, of_number("sharpness"), now, then)


@pytest.mark.parametrize(
    ("evaluated", "fails", "thresholds", "error"),
    [
        ("x", 1, "{}", "DataDrift"),
        ("x", 1, '{"characters": 0.5, "text_length": 1.0}', None),
        ("?", 1, "{}", "DataAnomalies"),
        ("?", 0, "{}", "DataAnomalies"),
        ("x", 0, "{}", None),
    ],
)
def test_data_that_contradicts_the_schema_is_more_than_drift(tmp_path, evaluated, fails, thresholds, error):
    """Where another split has a value that the schema forbids, `drift.fail=false` would not help."""
    rules = of_number("text_length")
    rules.feature[0].type = schema_pb2.INT
    rules.feature.add(name="text", type=schema_pb2.BYTES).string_domain.value.extend(["x", "xxxxxx"])

    def labels(text, count):
        return {"text": [text] * count, "text_length": [len(text)] * count}

    now = measured(tmp_path / "now", train=labels("xxxxxx", 100), eval=labels(evaluated, 10))
    then = measured(tmp_path / "then", train=labels("x", 100))
    if error is None:
        validate(tmp_path, rules, now, then, fails, thresholds)
        return
    with pytest.raises(getattr(component, error)) as raised:
        validate(tmp_path, rules, now, then, fails, thresholds)
    drift = "length of the text (text_length, train): median 1 in the run before, 6 now, divergence "
    assert (drift in str(raised.value)) == bool(fails)
    assert ("text (eval)" in str(raised.value)) == (error == "DataAnomalies")
    assert ("drift.fail=false" in str(raised.value)) == (error == "DataDrift")
