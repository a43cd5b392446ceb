"""Which split a row belongs to.

A row names the split of the first of these that has a word of `SPLIT_NAMES` (`plan.split_of`, `split_folders`):

    column `split`      data.split_column; an empty field leaves it open, another word rejects the row
    name of the CSV
    name of its folder  below the data folder, where such names give two splits or more, and no CSV's name gives one

Its split is that of the first line that holds (`SplitRule.assign`, `assign_split`):

    train               all rows of its data folder name `train`, and another data folder has rows to divide; where
                        all that have some name `train`, only if `htr label` or `htr review` has made the folder
    eval                it names `eval`
    that split          its key is taken for a split that the draw leaves empty (`SplitRule.forced`)
    validation          it names `validation`, and the data names `eval`, too
    eval                it names `validation`
    train               it names `train`, and the data names `validation` and `eval`
    eval                its key is drawn below data.eval_fraction, and the data names neither `validation` nor `eval`
    validation          its key is drawn in the next data.validation_fraction, and the data does not name both
    train               all others

Rows with the same key are drawn together (`plan.make_plan`, for pages `plan.fill_splits`):

    writer              where the row has one (data.writer_column)
    image               where it has none; for all rows where the draw by writer leaves a split empty that no writer can
                        be taken for: there are fewer than `plan.FEW_WRITERS`, each has more than a third of the images,
                        less than half would be left to train on, or the data names that split
    document            of pages; too few of them are an error
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from components.example_gen.settings import DataConfig

SPLITS = ("train", "validation", "eval")
# Words in a file name or split column and the split that they mean; `test` is what the gate evaluates.
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "eval", "testing": "eval", "eval": "eval", "evaluation": "eval",
}  # fmt: skip


@dataclass(frozen=True)
class SplitRule:
    """How rows of a dataset are divided; `plan.make_plan` decides it from all of them.

    Attributes:
        given: Splits that the dataset names.
        by_writer: Whether rows of one writer stay together.
        forced: Split by key of rows that are taken for a split which the draw would leave empty.
        in_training: Dataset folders whose rows all stay in `train`, such as images that were reviewed.
    """

    given: frozenset[str] = frozenset()
    by_writer: bool = True
    forced: Mapping[str, str] = field(default_factory=dict)
    in_training: frozenset[str] = frozenset()

    def assign(self, named: str | None, writer: str, image: str, root: str, config: DataConfig) -> str:
        """The split of one row.

        Args:
            named: Split that the file name or column gives, or None.
            writer: Who wrote it; empty if unknown.
            image: Name of the image that no other folder changes.
            root: Dataset folder of the row.
            config: Fractions and salt.
        """
        if root in self.in_training:
            return "train"
        key = writer if writer and self.by_writer else image
        if named != "eval" and key in self.forced:
            return self.forced[key]
        return assign_split(named, key, self.given, config)


def split_in_name(name: str) -> str | None:
    """The split that a word in the name of a file or folder means, such as `labels_test.csv`; None for no such word."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)


def named_split(value: str) -> str | None:
    """The split that a word in a file name or split column means; None for no such word."""
    return SPLIT_NAMES.get(value.strip().lower())


def draw(key: str, config: DataConfig) -> float:
    """A number from 0 to 1 that depends on nothing but the key and `data.split_salt`."""
    return int.from_bytes(hashlib.sha256(f"{config.split_salt}\0{key}".encode()).digest()[:8], "big") / 2**64


def assign_split(named: str | None, key: str, given: frozenset[str], config: DataConfig) -> str:
    """The split of one row.

    A split that the data names is kept, with two exceptions so that training never sees what the gate evaluates: a
    named `validation` becomes `eval` where no `eval` is named, and `validation` is then drawn from `train`. Everything
    else is drawn by the SHA-256 of `key` (the writer, or the image's id): the same key is always in the same split,
    whatever else the dataset holds.

    Args:
        named: Split that the file name or column gives, or None.
        key: Writer, or the image's id where writers are unknown.
        given: All splits that the dataset names.
        config: Fractions and salt.
    """
    share = draw(key, config)
    has_eval, has_validation = "eval" in given, "validation" in given
    if named == "eval" or (named == "validation" and has_eval):
        return named
    if named == "validation":
        return "eval"
    if named == "train" and has_eval and has_validation:
        return "train"
    if share < config.eval_fraction and not (has_eval or has_validation):
        return "eval"
    drawn = config.eval_fraction <= share < config.eval_fraction + config.validation_fraction
    if drawn and not (has_eval and has_validation):
        return "validation"
    return "train"
