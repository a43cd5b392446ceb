"""What drift is measured on: numbers of images and labels, from a folder, logged requests, or a run's training data.

No TFX or TensorFlow here. Rows are accepted and rejected by the same function as in the pipeline.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from tensorflow_metadata.proto.v0 import statistics_pb2

from components.common.workers import worker_pool
from components.example_gen import dataset
from components.example_gen.folders import find_tables
from components.example_gen.measures import NUMBERS
from components.example_gen.plan import make_plan
from components.example_gen.rejects import ADVICE, Reject
from components.example_gen.settings import DataConfig
from components.example_gen.splits import SplitRule
from components.example_gen.table import DatasetError, Row, Table, read_together
from components.report import report, summary
from components.transform.settings import TransformConfig

CONFIDENCE = "confidence"
# Points that stand for a distribution that is known by its quantiles only.
_POINTS = 1000


class NoStatistics(LookupError):
    """A run has no statistics to compare with; the message says why."""


@dataclass(frozen=True)
class Profile:
    """Measures of a set of images with labels, or with what a model read.

    Attributes:
        name: for people.
        samples: accepted rows; of a run, those of the training split.
        accepted: accepted rows of all splits.
        numbers: float64 [samples] by name in `NUMBERS`, where known `CONFIDENCE`; of a run, points of the quantile
            function instead.
        characters: how often each occurs in the texts; empty if unknown.
        alphabet: characters that are known to occur.
        rejected: refused rows by reason.
        predicted: whether the texts are what a model read.
        texts: number of texts by the set of their characters; empty if unknown.
    """

    name: str
    samples: int
    accepted: int
    numbers: Mapping[str, np.ndarray]
    characters: Counter[str] = field(default_factory=Counter)
    alphabet: frozenset[str] = frozenset()
    rejected: Mapping[str, int] = field(default_factory=dict)
    predicted: bool = False
    texts: Counter[frozenset[str]] = field(default_factory=Counter)

    def labels_with(self, characters: Container[str]) -> int:
        """Number of texts in which any of some characters occurs."""
        return sum(count for found, count in self.texts.items() if any(c in characters for c in found))


def of_folders(data: DataConfig, transform: TransformConfig) -> Profile:
    """Reads dataset folders, or logs of requests, which have a column `confidence` besides.

    Args:
        data: paths and column names.
        transform: geometry, for the check of labels against frames.

    Raises:
        DatasetError: there is nothing to read, or not one usable row.
    """
    tables, _ = find_tables(data)
    plan = make_plan(tables, data)
    places = [columns(table).get(CONFIDENCE) for table in tables]
    jobs = [
        (rows, place, plan.splits, data, transform)
        for table, place in zip(tables, places, strict=True)
        for rows in read_together(table, plan.lines(table))
    ]
    with worker_pool() as pool:
        results = [result for measured in pool.map(_measure, jobs) for result in measured]
    found = [result for result in results if not isinstance(result, str)]
    rejected = Counter(result for result in results if isinstance(result, str))
    name = ", ".join(os.path.basename(os.path.normpath(path)) for path in data.paths)
    if not found:
        reasons = ", ".join(f"{count} {reason}" for reason, count in rejected.most_common()) or "there is none"
        advice = "".join(f" {ADVICE[reason]}." for reason, _ in rejected.most_common(1) if reason in ADVICE)
        raise DatasetError(f"{name} holds no usable row: {reasons}.{advice}")
    measures = np.array([measured for _, measured in found])
    numbers = {
        column: values[np.isfinite(values)] for column, values in zip((*NUMBERS, CONFIDENCE), measures.T, strict=True)
    }
    characters = Counter("".join(text for text, _ in found))
    return Profile(
        name, len(found), len(found), {column: values for column, values in numbers.items() if len(values)},
        characters, frozenset(characters), rejected, predicted=any(place is not None for place in places),
        texts=Counter(frozenset(text) for text, _ in found),
    )  # fmt: skip


def columns(table: Table) -> dict[str, int]:
    """Positions of a table's columns by their names in small letters."""
    return {name.lower(): place for place, name in enumerate(table.names)}


def _measure(
    job: tuple[list[Row], int | None, SplitRule, DataConfig, TransformConfig],
) -> list[tuple[str, list[float]] | str]:
    """Text, and `NUMBERS` and `CONFIDENCE` of each row (nan where unknown); or the reason why it is refused."""
    rows, place, splits, data, transform = job
    results: list[tuple[str, list[float]] | str] = []
    for row, sample in zip(rows, dataset.examine_rows(rows, splits, data, transform), strict=True):
        if isinstance(sample, Reject):
            results.append(sample.reason)
            continue
        measured = {
            **sample.statistics, "width": sample.width, "height": sample.height, "text_length": len(sample.text)
        }  # fmt: skip
        try:
            confidence = float(row.fields[place]) if place is not None else math.nan
        except ValueError:
            confidence = math.nan
        results.append((sample.text, [*(measured[name] for name in NUMBERS), confidence]))
    return results


def of_run(workspace: str, name: str, run: str) -> Profile:
    """What a run was trained on, and how sure its model was on the evaluation split.

    Args:
        workspace: Folder with the pipeline's metadata.
        name: Name of the pipeline.
        run: as `components.report.summary.read` takes it.

    Raises:
        NoSuchRun: there is no such run.
        NoStatistics: it ended before its data was measured.
    """
    found = summary.read(workspace, name, run)
    path = os.path.join(_statistics_uri(workspace, found.run_id), "Split-train", "FeatureStats.pb")
    try:
        with open(path, "rb") as file:
            statistics = statistics_pb2.DatasetFeatureStatisticsList.FromString(file.read()).datasets[0]
    except OSError as error:
        raise NoStatistics(f"The statistics of run {found.name} cannot be read: {error}.") from error
    numbers = {
        feature.path.step[0]: points_of(feature) for feature in statistics.features if feature.path.step[0] in NUMBERS
    }
    counts: Counter[str] = Counter()
    alphabet: list[str] = []
    if found.report_folder and found.report:
        counts.update({row["character"]: row["in_training"] for row in found.report["characters"]})
        alphabet = list(found.report["model"]["alphabet"])
        predictions = pd.read_csv(os.path.join(found.report_folder, report.PREDICTIONS_FILE), usecols=[CONFIDENCE])
        numbers[CONFIDENCE] = predictions[CONFIDENCE].to_numpy(np.float64)
    samples = int(statistics.num_examples)
    return Profile(
        f"training data of run {found.name}", samples, sum(found.counts["accepted"].values()) or samples, numbers,
        counts, frozenset(alphabet), found.counts["rejected"],
    )  # fmt: skip


def points_of(feature: statistics_pb2.FeatureNameStatistics) -> np.ndarray:
    """Points that are distributed like a feature's values, by the histogram of quantiles that sums them up.

    Args:
        feature: Statistics of whole or other numbers, as StatisticsGen writes them.

    Returns:
        Values, float64 [points], whole where the feature's are.
    """
    (histogram,) = [h for h in feature.num_stats.histograms if h.type == statistics_pb2.Histogram.QUANTILES]
    edges = [histogram.buckets[0].low_value, *(bucket.high_value for bucket in histogram.buckets)]
    reached = np.cumsum([0.0, *(bucket.sample_count for bucket in histogram.buckets)])
    points = np.interp((np.arange(_POINTS) + 0.5) / _POINTS, reached / reached[-1], edges)
    # Between whole numbers lies none, and bins tell a fraction from the number beside it.
    return np.rint(points) if feature.type == feature.INT else points


def _statistics_uri(workspace: str, run_id: str) -> str:
    """Folder of the artifact of StatisticsGen that a run made or found cached."""
    store = summary.open_metadata(workspace)
    context = store.get_context_by_type_and_name("pipeline_run", run_id)
    for execution in store.get_executions_by_context(context.id):
        if statistics := summary.outputs_of(store, execution.id).get("statistics"):
            return statistics.uri
    raise NoStatistics(f"Run {run_id} ended before its data was measured.")
