"""What drift is measured on: numbers of images and labels, from a folder, logged requests, or a run's training data.

No TFX or TensorFlow here. Rows are accepted and rejected by the same function as in the pipeline.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from tensorflow_metadata.proto.v0 import statistics_pb2

from components.common.words import counted
from components.common.workers import worker_pool
from components.example_gen import dataset
from components.example_gen.folders import find_tables
from components.example_gen.measures import NUMBERS
from components.example_gen.plan import make_plan
from components.example_gen.rejects import FITS_AS_LINE, Reject, advice_for
from components.example_gen.settings import DataConfig
from components.example_gen.splits import SplitRule
from components.example_gen.table import DatasetError, Row, Table, read_together
from components.example_validator.divergence import quantiles
from components.report import html, summary
from components.tools.log_times import read_time, time_column
from components.transform.settings import TransformConfig
from htr_client.pages.xml_files import read_confidence

CONFIDENCE = "confidence"
# Settings of `data` that reject rows, whatever the names of their columns.
_REJECTING = ("placeholders", "alphabet", "max_megapixels")


class NoStatistics(LookupError):
    """A run has no statistics to compare with; the message says why."""


@dataclass(frozen=True)
class Profile:
    """Measures of a set of images with labels, or with the texts of a model.

    Attributes:
        name: Name for people.
        samples: Accepted rows; of a run, those of the training split.
        accepted: Accepted rows of all splits.
        numbers: float64 [samples] by name in `NUMBERS`, where known `CONFIDENCE`; of a run, its quantiles instead,
            repeated in proportion to the images.
        known_at: For a run, the ends of bins in which the share of its values is known, by name in `NUMBERS`.
        characters: How often each occurs in the texts; empty if unknown.
        alphabet: Characters that are known to occur.
        rejected: Refused rows by reason.
        predicted: Whether the texts are those of a model.
        texts: Number of texts by the set of their characters; empty if unknown.
        notes: What was passed over, sentences.
        read_with: Settings that accepted and rejected the rows of a run, as in `summary.RunSummary`.
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
    known_at: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: Sequence[str] = ()
    read_with: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def labels_with(self, characters: Container[str]) -> int:
        """Number of texts in which any of some characters occurs."""
        return sum(count for found, count in self.texts.items() if any(c in characters for c in found))


def of_folders(data: DataConfig, transform: TransformConfig, since: datetime | None = None) -> Profile:
    """Reads dataset folders, or logs of requests, which have a column `confidence` besides.

    Args:
        data: Paths and column names.
        transform: Geometry, for the check of labels against frames.
        since: Moment from which on rows of logs are measured, by their column `time`; all if None.

    Raises:
        DatasetError: There is nothing to read, not one usable row, or no column with the times that are needed.
    """
    tables, notes = find_tables(data)
    recent = _Recent(since)
    plan = make_plan(tables, data)
    places = [columns(table).get(CONFIDENCE) for table in tables]
    jobs = [
        (rows, place, plan.splits, data, transform)
        for table, place in zip(tables, places, strict=True)
        for rows in map(recent.of, read_together(table, plan.lines(table))) if rows
    ]  # fmt: skip
    with worker_pool() as pool:
        results = [result for measured in pool.map(_measure, jobs) for result in measured]
    found = [result for result in results if not isinstance(result, Reject)]
    rejects = [result for result in results if isinstance(result, Reject)]
    rejected = Counter(reject.reason for reject in rejects)
    lines = Counter(reject.reason for reject in rejects if FITS_AS_LINE in reject.detail)
    name = ", ".join(os.path.basename(os.path.normpath(path)) for path in data.paths)
    if not found:
        none = f"there is none since {since:%Y-%m-%d %H:%M} UTC" if since else "there is none"
        reasons = ", ".join(f"{count} {reason}" for reason, count in rejected.most_common()) or none
        told = [advice_for(reason, count, lines[reason]) for reason, count in rejected.most_common(1)]
        advice = "".join(f" {text}." for text in told if text)
        raise DatasetError(f"{name} holds no usable row: {reasons}.{advice}")
    for reason, count in lines.items():
        notes.append(
            f"{name}: {rejected[reason]} of {counted(len(results), 'row')} left out, {reason}: "
            f"{advice_for(reason, rejected[reason], count)}."
        )
    if recent.unknown:
        notes.append(
            f"{name}: left out {counted(len(recent.unknown), 'row')} without a date and a time, such as "
            f"{recent.unknown[0]}."
        )
    if without := [place for *_, place in found if place]:
        notes.append(
            f"{name}: {counted(len(without), 'row')} of {len(found)} {'has' if len(without) == 1 else 'have'} no "
            f"confidence from 0 to 1, such as {without[0]}; the measure confidence is of the others."
        )
    measures = np.array([measured for _, measured, _ in found])
    numbers = {
        column: values[np.isfinite(values)] for column, values in zip((*NUMBERS, CONFIDENCE), measures.T, strict=True)
    }
    characters = Counter("".join(text for text, *_ in found))
    return Profile(
        name, len(found), len(found), {column: values for column, values in numbers.items() if len(values)},
        characters, frozenset(characters), rejected, predicted=any(place is not None for place in places),
        texts=Counter(frozenset(text) for text, *_ in found), notes=notes,
    )  # fmt: skip


class _Recent:
    """Chooses rows by their time, and remembers the places of those that have none."""

    def __init__(self, since: datetime | None) -> None:
        self._since = since
        self.unknown: list[str] = []

    def of(self, rows: list[Row]) -> list[Row]:
        if self._since is None:
            return rows
        column, chosen = time_column(rows[0].table), []
        for row in rows:
            # One that is malformed may be any day's, and would count as a rejected one of each.
            moment = read_time(row.fields[column]) if len(row.fields) == row.table.columns else None
            if moment is None:
                self.unknown.append(f"{row.table.name}, row {row.line}")
            elif moment >= self._since:
                chosen.append(row)
        return chosen


def columns(table: Table) -> dict[str, int]:
    """Positions of a table's columns by their names in small letters."""
    return {name.lower(): place for place, name in enumerate(table.names)}


def _measure(
    job: tuple[list[Row], int | None, SplitRule, DataConfig, TransformConfig],
) -> list[tuple[str, list[float], str] | Reject]:
    """Text, `NUMBERS` and `CONFIDENCE` (nan where unknown), and where one is missing; or why the row is refused."""
    rows, place, splits, data, transform = job
    results: list[tuple[str, list[float], str] | Reject] = []
    for row, sample in zip(rows, dataset.examine_rows(rows, splits, data, transform), strict=True):
        if isinstance(sample, Reject):
            results.append(sample)
            continue
        measured = {
            **sample.statistics, "width": sample.width, "height": sample.height, "text_length": len(sample.text)
        }  # fmt: skip
        confidence = None if place is None else read_confidence(row.fields[place])
        missing = f"{row.table.name}, row {row.line}" if place is not None and confidence is None else ""
        values = [*(measured[name] for name in NUMBERS), math.nan if confidence is None else confidence]
        results.append((sample.text, values, missing))
    return results


def of_run(workspace: str, name: str, run: str) -> Profile:
    """What a run was trained on, and how sure its model was on the evaluation split.

    Args:
        workspace: Folder with the pipeline's metadata.
        name: Name of the pipeline.
        run: Run as `components.report.summary.read` takes it; "latest" is the latest whose data was measured.

    Raises:
        NoSuchRun: There is no such run.
        NoStatistics: It, or every run, ended before its data was measured.
    """
    found, notes = _measured_run(workspace, name, run)
    path = os.path.join(found.statistics_folder or "", "Split-train", "FeatureStats.pb")
    try:
        with open(path, "rb") as file:
            statistics = statistics_pb2.DatasetFeatureStatisticsList.FromString(file.read()).datasets[0]
    except OSError as error:
        raise NoStatistics(f"The statistics of run {found.name} cannot be read: {error}.") from error
    numbers: dict[str, np.ndarray] = {}
    known_at: dict[str, np.ndarray] = {}
    for feature in statistics.features:
        if (measure := feature.path.step[0]) in NUMBERS:
            numbers[measure], known_at[measure] = quantiles(feature.num_stats)
    counts: Counter[str] = Counter()
    alphabet: list[str] = []
    if found.report_folder and found.report:
        rows = found.report["characters"]  # those of the alphabet, too, whether or not a label has them
        counts.update({row["character"]: row["in_training"] for row in rows if row["in_training"]})
        alphabet = [row["character"] for row in rows if row["in_training"] or row["seen"]]
        if _as_clients_decode(found.report):
            predictions = pd.read_csv(os.path.join(found.report_folder, html.PREDICTIONS_FILE), usecols=[CONFIDENCE])
            numbers[CONFIDENCE] = predictions[CONFIDENCE].to_numpy(np.float64)
        else:
            notes.append(
                f"Run {found.name} was evaluated without its language model (gate.decoder=best_path): its confidence "
                "is left out, since that of logged requests is with it."
            )
    samples = int(statistics.num_examples)
    return Profile(
        f"training data of run {found.name}", samples, sum(found.counts["accepted"].values()) or samples, numbers,
        counts, frozenset(alphabet), found.counts["rejected"], known_at=known_at, notes=notes,
        read_with=found.read_with,
    )  # fmt: skip


def _measured_run(workspace: str, name: str, run: str) -> tuple[summary.RunSummary, list[str]]:
    """A run with statistics, and a note where it is not the one that was asked for."""
    asked = summary.read(workspace, name, run)
    if asked.statistics_folder:
        return asked, []
    ended = f"Run {asked.name} ended before its data was measured"
    if run != "latest":
        raise NoStatistics(f"{ended}. Name another with --run; `htr runs` lists them.")
    earlier = (one for one in summary.read_all(workspace, name) if one.statistics_folder)
    if (found := next(earlier, None)) is None:
        raise NoStatistics(f"{ended}, and so did all before it. Compare with a folder instead: --against DIR.")
    return found, [f"{ended} ({asked.outcome}); run {found.name} is the latest before it that came so far."]


def as_read(before: Profile, data: DataConfig, transform: TransformConfig) -> tuple[DataConfig, TransformConfig]:
    """Settings that accept and reject rows as those of a run were, but for what a command has set itself.

    Else rows that the run learnt from would be rejected as new data, such as lines by the preset `word`.

    Args:
        before: Profile of the run.
        data: Section `data` of the command.
        transform: Section `transform` of the command; taken whole where anything of it is set.
    """
    recorded = before.read_with.get("data", {})
    alike = {key: recorded[key] for key in _REJECTING if key in recorded and key not in data.model_fields_set}
    if "preset" not in transform.model_fields_set and transform == TransformConfig():
        known = before.read_with.get("transform", {}).items()  # another release may have other settings
        transform = TransformConfig(**{key: value for key, value in known if key in TransformConfig.model_fields})
    return data.model_copy(update=alike), transform


def _as_clients_decode(contents: Mapping[str, Any]) -> bool:
    """Whether the texts of a report, and with them the confidences, are those that clients get by default."""
    language_model = contents.get("language_model")  # an earlier release had neither this nor the decoder
    return contents["config"]["gate"].get("decoder") == "default" or not (language_model and language_model["weight"])
