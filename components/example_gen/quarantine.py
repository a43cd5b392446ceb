"""What was rejected: the artifact that holds it, its counts, and when there is too much of it."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tfx.dsl.io import fileio
from tfx.types.artifact import Artifact

from components.common.words import counted
from components.example_gen.rejects import CONTROLS, FITS_AS_LINE, NO_ROWS, REJECTS_FILE, advice_for, faults
from components.example_gen.settings import DataConfig
from components.example_gen.table import DatasetError

COUNTS_FILE = "counts.json"
_MOST_CHARACTERS = 300  # of an example


class TooManyRejects(RuntimeError):
    """More rows were rejected than `data.max_rejected` allows."""


class Quarantine(Artifact):
    """Rejected rows (`rejects.csv`: csv, row, image, text, reason, detail) and counts (`counts.json`)."""

    TYPE_NAME = "htr.Quarantine"  # the form that Kubeflow asks for


def read_counts(quarantine_uri: str) -> dict[str, Any]:
    """Reads the counts of a Quarantine artifact.

    Returns:
        `accepted` by split, `rejected` by reason, `mended` by key of `images.MENDS`, `by_model` by split (accepted rows
        whose text a model wrote), `left_out` by `data.limit`, `split_by_writer`, and sentences: `notes` and `problems`.
    """
    with fileio.open(os.path.join(quarantine_uri, COUNTS_FILE)) as file:
        return json.loads(file.read())


def listed(quarantine_uri: str) -> Iterator[tuple[str, str]]:
    """Reads the rejected rows of a Quarantine artifact: the reason of each, and in words where and what it is."""
    with fileio.open(os.path.join(quarantine_uri, REJECTS_FILE)) as file:
        for row in csv.DictReader(file):
            yield row["reason"], f"row {row['row']} of {row['csv']}: {row['detail']}"


def check_counts(
    counts: dict[str, Any], data: DataConfig, rejects: Iterable[tuple[str, str]], rejects_copy: str | None,
    row: str = "row", sample: str = "image",
) -> None:  # fmt: skip
    """Raises `TooManyRejects` when too many rows were refused, `DatasetError` when a split is empty.

    Args:
        counts: `accepted` by split and `rejected` by reason.
        data: What is refused.
        rejects: Reason of each that was rejected, and in words where and what it is; the messages tell one of each
            reason, since on Kubeflow the log is all that remains of this step.
        rejects_copy: File that lists what was rejected.
        row: What is counted, for the messages.
        sample: What is left of it.
    """
    accepted, rejected = sum(counts["accepted"].values()), sum(counts["rejected"].values())
    total = accepted + rejected
    where = f" Each is listed in {rejects_copy}." if rejects_copy else ""
    if not total:
        raise DatasetError(NO_ROWS)
    of_faults = faults(counts["rejected"])
    if (number := sum(of_faults.values())) > data.max_rejected * total:
        by_reason, examples, advice = _looked_through(of_faults, rejects)
        raise TooManyRejects(
            f"{number} of {counted(total, row)} {'was' if number == 1 else 'were'} rejected "
            f"({number / total:.1%}; data.max_rejected allows {data.max_rejected:.1%}): {by_reason}.{advice}{where}"
            f"{examples}"
        )
    empty = [split for split, count in counts["accepted"].items() if not count]
    if empty:
        by_reason, examples, advice = _looked_through(counts["rejected"], rejects)
        raise DatasetError(
            f"No {sample} is left for {' and '.join(empty)}; rejected are {rejected} of {counted(total, row)}"
            f"{f' ({by_reason})' if by_reason else ''}. Add data, or correct what was rejected.{advice}{where}"
            f"{examples}"
        )


def _looked_through(counts: Mapping[str, int], rejects: Iterable[tuple[str, str]]) -> tuple[str, str, str]:
    """The counts, a line for each reason, the most frequent first, and a sentence on what helps against that one."""
    reasons = dict(sorted(counts.items(), key=lambda x: -x[1]))
    most, lines = next(iter(reasons), ""), 0
    found: dict[str, str] = {}
    for reason, example in rejects:
        found.setdefault(reason, example)
        lines += reason == most and FITS_AS_LINE in example
    advice = advice_for(most, reasons.get(most, 0), lines)
    examples = "".join(
        f"\n  {reason}, e.g. {found[reason][:_MOST_CHARACTERS].translate(CONTROLS)}"
        for reason in reasons if reason in found
    )  # fmt: skip
    by_reason = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    return by_reason, examples, f" {advice}." if advice else ""
