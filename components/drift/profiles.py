"""What drift is measured on: numbers of pictures and labels, from a folder, logged requests, or a run's training data.

No TFX or TensorFlow here. Rows are accepted and rejected by the same function as in the pipeline.
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2
from tensorflow_metadata.proto.v0 import statistics_pb2

from components.example_gen import dataset
from pipeline import summary
from pipeline.config import DataConfig, TransformConfig

NUMBERS = ("width", "height", "text_length", "paper_level", "ink_level", "ink_share", "sharpness")
CONFIDENCE = "confidence"
# Points of a distribution that is known by its quantiles only.
_POINTS = 1000


class NoStatistics(LookupError):
    """A run has no statistics to compare with; the message says why."""


@dataclass(frozen=True)
class Profile:
    """Measures of a set of pictures with labels, or with what a model read.

    Attributes:
        name: for people.
        samples: accepted rows.
        numbers: float64 [samples] by name in `NUMBERS`, where known `CONFIDENCE`; of a run, points of the quantile
            function instead.
        characters: number of labels by the characters in them; empty if unknown.
        alphabet: characters that are known to occur.
        rejected: refused rows by reason.
        predicted: whether the texts are what a model read.
    """

    name: str
    samples: int
    numbers: Mapping[str, np.ndarray]
    characters: Counter[str] = field(default_factory=Counter)
    alphabet: frozenset[str] = frozenset()
    rejected: Mapping[str, int] = field(default_factory=dict)
    predicted: bool = False


def of_folders(data: DataConfig, transform: TransformConfig) -> Profile:
    """Reads dataset folders or logs of requests.

    Args:
        data: paths and column names.
        transform: geometry, for the check of labels against frames.

    Raises:
        DatasetError: there is nothing to read, or not one usable row.
    """
    tables, _ = dataset.find_tables(data)
    given = dataset.named_splits(tables)
    rows = list(_rows(tables))
    places = {table.path: _confidence_column(table) for table in tables}
    with ProcessPoolExecutor() as pool:
        results = pool.map(dataset_measures, ((row, given, data, transform) for row, _ in rows), chunksize=64)
        found = list(zip(rows, results, strict=True))
    numbers: dict[str, list[float]] = {name: [] for name in (*NUMBERS, CONFIDENCE)}
    characters: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for (row, _), result in found:
        if isinstance(result, str):
            rejected[result] += 1
            continue
        text, measured = result
        characters.update(set(text))
        for name in NUMBERS:
            numbers[name].append(measured[name])
        place = places[row.table.path]
        if place is not None:
            numbers[CONFIDENCE].append(_number(row.fields[place]))
    samples = len(found) - sum(rejected.values())
    folders = ", ".join(os.path.basename(os.path.normpath(path)) for path in data.paths)
    if not samples:
        reasons = ", ".join(f"{count} {reason}" for reason, count in rejected.most_common())
        raise dataset.DatasetError(f"{folders} holds no usable row{f' ({reasons})' if reasons else ''}.")
    arrays = {name: np.array(values, np.float64) for name, values in numbers.items()}
    arrays[CONFIDENCE] = arrays[CONFIDENCE][np.isfinite(arrays[CONFIDENCE])]
    predicted = any(place is not None for place in places.values())
    return Profile(
        folders, samples, {name: values for name, values in arrays.items() if len(values)}, characters,
        frozenset(characters), rejected, predicted,
    )  # fmt: skip
