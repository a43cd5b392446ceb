"""Which split a row belongs to."""

from __future__ import annotations

import hashlib

from components.example_gen.table import Table, read_rows
from pipeline.config import DataConfig

SPLITS = ("train", "validation", "eval")
# Words in a file name or split column and the split that they mean; `test` is what the gate judges.
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "eval", "testing": "eval", "eval": "eval", "evaluation": "eval",
}  # fmt: skip


def named_splits(tables: list[Table]) -> frozenset[str]:
    """Splits that names of files or split columns give; the rest is drawn (see `assign_split`).

    Raises:
        DatasetError: a table cannot be read.
    """
    named = {table.default_split for table in tables}
    for table in tables:
        if table.split is not None:
            values = {row.fields[table.split] for row in read_rows(table) if len(row.fields) == table.columns}
            named |= {SPLIT_NAMES.get(value.strip().lower()) for value in values}
    return frozenset(split for split in named if split)


def assign_split(named: str | None, key: str, given: frozenset[str], config: DataConfig) -> str:
    """The split of one row.

    A split that the data names is kept, with two exceptions that make sure that training never sees what the gate
    judges: a named `validation` becomes `eval` where no `eval` is named, and `validation` is then drawn from `train`.
    Everything else is drawn by the SHA-256 of `key` (the writer, or the picture's id): the same key is always in the
    same split, whatever else the dataset holds.

    Args:
        named: split that the file name or column gives, or None.
        key: writer, or the picture's id where writers are unknown.
        given: all splits that the dataset names.
        config: fractions and salt.
    """
    draw = int.from_bytes(hashlib.sha256(f"{config.split_salt}\0{key}".encode()).digest()[:8], "big") / 2**64
    has_eval, has_validation = "eval" in given, "validation" in given
    if named == "eval" or (named == "validation" and has_eval):
        return named
    if named == "validation":
        return "eval"
    if named == "train" and has_eval and has_validation:
        return "train"
    if draw < config.eval_fraction and not (has_eval or has_validation):
        return "eval"
    drawn = config.eval_fraction <= draw < config.eval_fraction + config.validation_fraction
    if drawn and not (has_eval and has_validation):
        return "validation"
    return "train"
