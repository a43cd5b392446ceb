"""What is decided for all rows of a dataset together, before any image is opened.

One pass over the label files: how rows are divided among the splits, which of them are left out by `data.limit`, and
which labels are in scripts that the model cannot learn.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from components.common.words import counted, some
from components.example_gen import limit
from components.example_gen.header import GUESS, LABELLING_MODEL, is_addition
from components.example_gen.images import resolve_image
from components.example_gen.labels import right_to_left
from components.example_gen.named_images import Named
from components.example_gen.rejects import Rejected
from components.example_gen.repeats import repeats
from components.example_gen.settings import DataConfig
from components.example_gen.split_folders import silent_names
from components.example_gen.splits import SPLITS, SplitRule, assign_split, draw, named_split
from components.example_gen.table import Row, Table, plain, read_rows, why_malformed

FEW_WRITERS = 5  # with fewer, a split by writer would say more about single writers than about the model
# With so many keys, a draw that leaves a split empty does not occur: 0.9 to this power is 10^-46.
_MANY = 1000
_PLACES_SHOWN = 3
# Share of rows without a writer, beside rows with one, that cannot change the figures by much.
_FEW_NAMELESS = 0.01
# Share of the images by which fewer may be drawn for training than the fractions ask for.
_UNLUCKY = 0.1


class _Group(NamedTuple):
    """Rows that are drawn together: one writer's, or one image's."""

    key: str
    named: str | None


@dataclass(frozen=True)
class Plan:
    """What is decided for all rows of a dataset.

    Attributes:
        splits: How rows are divided.
        rows: Number of rows.
        left_out: How many of them `data.limit` leaves out.
        notes: What people should know of it, sentences.
        problems: What makes the model or its figures wrong, sentences.
    """

    splits: SplitRule
    rows: int = 0
    left_out: int = 0
    notes: Sequence[str] = ()
    problems: Sequence[str] = ()
    _kept: Mapping[str, frozenset[int]] | None = None

    def lines(self, table: Table) -> frozenset[int] | None:
        """Lines of the rows of a table that are used, for `read_together`; None for all."""
        return None if self._kept is None else self._kept[table.path]

    def read(self, table: Table) -> list[Row]:
        """The rows of a table that are used.

        Raises:
            DatasetError: It cannot be read.
        """
        lines = self.lines(table)
        return [row for row in read_rows(table) if lines is None or row.line in lines]


class _Survey:
    """What one pass over the rows finds."""

    def __init__(self, in_training: frozenset[str]) -> None:
        self.in_training = in_training
        self.rows = 0
        self.given: set[str] = set()
        self.trains = bool(in_training)  # whether a row can be trained on
        self.groups: Counter[_Group] = Counter()  # rows by writer
        self.unknown: list[tuple[Row, str | None]] = []  # rows without a writer, at most _MANY + 1 of them
        self.nameless: Counter[str] = Counter()  # rows without a writer by table, all of them
        self.by_model: Counter[str] = Counter()  # rows whose text a model wrote, by table
        self.right_to_left: list[str] = []  # places of some rows with such labels
        self.right_to_left_rows = 0
        self.scripts: Counter[str] = Counter()
        self.malformed = ""  # place and fault of the first malformed row
        self.malformed_rows = 0

    def add(self, row: Row) -> None:
        self.rows += 1
        table = row.table
        if len(row.fields) != len(table.names):
            self.malformed = self.malformed or f"row {row.line} of {table.name}: {why_malformed(row)}"
            self.malformed_rows += 1
            return
        if table.root not in self.in_training:
            self._divide(row)
        if table.labelling_model is not None and row.labelling_model:
            self.by_model[table.path] += 1
        if scripts := right_to_left(row.fields[table.text]):
            self.scripts.update(scripts)
            self.right_to_left_rows += 1
            if len(self.right_to_left) < _PLACES_SHOWN:
                self.right_to_left.append(f"row {row.line} of {table.name}")

    def _divide(self, row: Row) -> None:
        named = split_of(row)
        self.trains |= named in (None, "train")
        if named:
            self.given.add(named)
        writer = row.writer
        if writer:
            self.groups[_Group(writer, named)] += 1
            return
        self.nameless[row.table.path] += 1
        if len(self.unknown) <= _MANY:
            self.unknown.append((row, named))


def split_of(row: Row) -> str | None:
    """The split that a row of the right length names, else the name of its file; None for none, or an unknown word."""
    column = row.table.split
    value = row.fields[column] if column is not None else ""
    return named_split(value) if value.strip() else row.table.default_split


def make_plan(tables: Sequence[Table], data: DataConfig, passed_over: Sequence[str] = ()) -> Plan:
    """Decides what has to be decided for all rows together.

    Args:
        tables: Label files.
        data: Fractions, salt and limit.
        passed_over: Problems of other files, as `folders.find` tells them.

    Raises:
        DatasetError: A table cannot be read.
    """
    survey, named = _Survey(_in_training(tables)), Named(tables)
    for table in tables:
        if table.default_split and table.root not in survey.in_training:
            survey.given.add(table.default_split)
        for row in read_rows(table):
            survey.add(row)
            named.add(row)
    splits, notes = _split_rule(survey, tables, data)
    kept, left_out = None, 0
    if data.limit is not None and survey.rows > data.limit:
        kept = _part(tables, splits, data, data.limit)
        left_out = survey.rows - sum(map(len, kept.values()))
        notes.append(f"data.limit={data.limit} leaves out {left_out} of {counted(survey.rows, 'row')}.")
    few_notes, few_problems = _few_to_train_on(survey, splits, data)
    repeated_notes, repeated_problems = repeats(tables, named, data)
    notes += [*named.unused(), *few_notes, *repeated_notes, *_alike(survey)]
    problems = [
        *passed_over, *_logged(survey, tables), *silent_names(tables, named, data), *repeated_problems,
        *_uncorrected(tables), *_right_to_left(survey), *_nothing_to_train_on(survey, tables), *few_problems,
    ]  # fmt: skip
    if splits.by_writer and survey.groups and survey.nameless:
        few = survey.nameless.total() <= _FEW_NAMELESS * survey.groups.total()
        (notes if few else problems).append(_nameless(survey, tables))
    return Plan(splits, survey.rows, left_out, notes, problems, kept)


def _in_training(tables: Sequence[Table]) -> frozenset[str]:
    """Dataset folders whose rows all name `train`, where another folder has rows to draw the other splits from.

    If every folder that could be drawn names `train`, those are drawn that no command has made.
    """
    roots = {table.root for table in tables}
    if len(roots) < 2:
        return frozenset()
    named: dict[str, set[str | None]] = {root: set() for root in roots}
    for table in tables:
        whole = (row for row in read_rows(table) if len(row.fields) == table.columns)
        named[table.root].update({table.default_split} if table.split is None else {split_of(row) for row in whole})
    settled = frozenset(root for root, splits in named.items() if splits == {"train"})
    if any({None, "train"} & named[root] for root in roots - settled):
        return settled
    added = settled - {table.root for table in tables if not is_addition(table)}
    return added if settled - added else frozenset()


def _split_rule(survey: _Survey, tables: Sequence[Table], data: DataConfig) -> tuple[SplitRule, list[str]]:
    given, stay = frozenset(survey.given), survey.in_training
    images: Counter[_Group] | None = None  # rows without a writer by image; None for so many that they fill all splits
    if len(survey.unknown) <= _MANY:
        images = _by_image(survey.unknown)
    writers = {group.key for group in survey.groups}
    if images is None or not (empty := _empty(survey.groups + images, given, data)):
        return SplitRule(given, in_training=stay), []
    if len(writers) >= FEW_WRITERS:
        forced = _fill(survey.groups, empty, given, data)
        if forced is not None:
            taken = " and ".join(f"writer {key} for {split}" for key, split in forced.items())
            return SplitRule(given, True, forced, stay), [
                f"The draw by writer leaves {' and '.join(empty)} without images; taken instead: {taken}. They may "
                f"change their split when writers are added: the model before may then have learnt from images that it "
                f"is evaluated on."
            ]
    notes = []
    underestimated = (
        f"images are split one by one. The error on unseen writers is underestimated; it holds for "
        f"{'these writers' if len(writers) > 1 else 'this writer'}."
    )
    if 0 < len(writers) < FEW_WRITERS:
        notes.append(
            f"The labels name {counted(len(writers), 'writer')}, too few to keep the images of some for validation and "
            f"evaluation: {underestimated}"
        )
    elif writers and survey.trains:  # else another sentence says what is wrong
        notes.append(
            f"The draw by writer leaves {' and '.join(empty)} without images, and nobody's images can be taken for "
            f"that, since too few would be left to train on: {underestimated}"
        )
    rows = [
        (row, split_of(row))
        for table in tables if table.root not in stay
        for row in read_rows(table) if len(row.fields) == table.columns
    ]  # fmt: skip
    forced = None
    if len(rows) <= _MANY:
        images = _by_image(rows)
        forced = _fill(images, _empty(images, given, data), given, data)
    return SplitRule(given, False, forced or {}, stay), notes


def _by_image(rows: Sequence[tuple[Row, str | None]]) -> Counter[_Group]:
    groups: Counter[_Group] = Counter()
    for row, named in rows:
        try:
            path = resolve_image(row.fields[row.table.image].strip(), row.table)
        except Rejected:
            continue
        groups[_Group(row.table.names_of(path)[1], named)] += 1
    return groups


def _empty(groups: Counter[_Group], given: frozenset[str], data: DataConfig) -> list[str]:
    """Splits that the draw leaves without rows; all that is there is named train, or nothing, where they may be."""
    found = {assign_split(group.named, group.key, given, data) for group in groups}
    return [split for split in SPLITS if split not in found]


def fill_splits(sizes: Mapping[str, int], data: DataConfig) -> SplitRule | None:
    """How groups that name no split are divided, whatever they are: each stays in one split.

    Args:
        sizes: Number of samples by key of the group.
        data: Fractions and salt.

    Returns:
        The rule, which leaves no split empty; None where there are too few groups, or one is most of the data.
    """
    groups = Counter({_Group(key, None): size for key, size in sizes.items()})
    empty = _empty(groups, frozenset(), data)
    forced = _fill(groups, empty, frozenset(), data) if empty else {}
    return None if forced is None else SplitRule(forced=forced)


def _fill(
    groups: Counter[_Group], empty: Collection[str], given: frozenset[str], data: DataConfig
) -> dict[str, str] | None:
    """Keys for splits that the draw leaves empty: those drawn first.

    What is taken is decided anew from all that is there. Added data may therefore move a key that is taken back to
    training, or another one out of it.

    Returns:
        Split by key; None if too little would be left to train on, or the splits are named.
    """
    forced: dict[str, str] = {}
    total = groups.total()
    in_training = Counter[str]()
    for group, count in groups.items():
        if assign_split(group.named, group.key, given, data) == "train":
            in_training[group.key] += count
    left = in_training.total()
    for split in ("eval", "validation"):
        if split not in empty:
            continue
        if split in given or (split == "eval" and "validation" in given):  # it has rows, all of them unusable
            return None
        candidates = sorted((draw(key, data), key) for key, count in in_training.items() if 3 * count <= total)
        if not candidates:
            return None
        key = candidates[0][1]
        forced[key] = split
        left -= in_training.pop(key)
    return forced if 2 * left >= total and "train" not in empty else None


def _part(tables: Sequence[Table], splits: SplitRule, data: DataConfig, most: int) -> dict[str, frozenset[int]]:
    """Lines by table of the rows that `data.limit` takes."""
    candidates = []
    for number, table in enumerate(tables):
        for row in read_rows(table):
            whole = len(row.fields) == table.columns
            named, writer = (split_of(row), row.writer) if whole else (None, "")
            image = plain(row.fields[table.image].strip()) if whole else str(row.line)
            # Images that are drawn one by one are drawn from the part as from the whole.
            known = splits.assign(named, writer, "", table.root, data) if writer and splits.by_writer else named or ""
            candidates.append(limit.Candidate((table.source, known), writer, limit.rank(image), number, row.line))
    lines: dict[int, set[int]] = defaultdict(set)
    for chosen in limit.choose(candidates, most):
        lines[chosen.table].add(chosen.line)
    return {table.path: frozenset(lines[number]) for number, table in enumerate(tables)}


def _uncorrected(tables: Sequence[Table]) -> list[str]:
    """Problems of tables of `htr review` in which all texts still are the model's."""
    found = []
    for table in tables:
        if GUESS not in table.names or table.labelling_model is None:
            continue
        guess = table.names.index(GUESS)
        whole = (row for row in read_rows(table) if len(row.fields) == table.columns)
        by_model = (bool(row.labelling_model) and row.fields[table.text] == row.fields[guess] for row in whole)
        if next(by_model, False) and all(by_model):
            found.append(
                f"Nobody has corrected {table.name}: its texts are those that the model was least sure of. Correct "
                "them in the review.html beside it and put the labels.csv that this page saves in its place, or leave "
                "that folder out."
            )
    return found


def _right_to_left(survey: _Survey) -> list[str]:
    if not survey.scripts:
        return []
    scripts = ", ".join(f"{script} {count}" for script, count in survey.scripts.most_common())
    return [
        f"Rows whose labels are written from right to left: {survey.right_to_left_rows} ({scripts}), for example "
        f"{', '.join(survey.right_to_left)}. Such scripts are not supported: the model transcribes from left to "
        f"right and cannot learn these labels."
    ]


def _few_to_train_on(survey: _Survey, splits: SplitRule, data: DataConfig) -> tuple[list[str], list[str]]:
    """Notes and problems where less than half of the images is left to train on.

    The fractions may ask for that. Else a writer with many images was drawn for another split than training: the draw
    goes by writer, whatever the number of images. It stays, since writers keep their split as data is added.
    """
    if not splits.by_writer or survey.given or survey.unknown:
        return [], []
    of_writers: Counter[str] = Counter()
    for group, count in survey.groups.items():
        of_writers[group.key] += count
    drawn = {key: splits.assign(None, key, "", "", data) for key in of_writers}
    total = of_writers.total()
    left = sum(count for key, count in of_writers.items() if drawn[key] == "train")
    if 2 * left >= total:
        return [], []
    meant = 1 - data.eval_fraction - data.validation_fraction
    if left / total > meant - _UNLUCKY:
        note = f"data.eval_fraction and data.validation_fraction leave {left / total:.0%} of the images to train on."
        return [note], []
    key, count = max(((key, count) for key, count in of_writers.items() if drawn[key] != "train"), key=lambda x: x[1])
    # Without a name: problems are told in the model card, which goes wherever the model goes.
    return [], [
        f"One writer has {count / total:.0%} of the images and was drawn for {drawn[key]}: {left / total:.0%} are left "
        f"to train on. Draw others with --set data.split_salt=1 (or another text), or name the splits in a column."
    ]


def _alike(survey: _Survey) -> list[str]:
    """Says which writers may be the same person."""
    spellings: dict[str, set[str]] = defaultdict(set)
    for group in survey.groups:
        spellings[" ".join(group.key.casefold().split())].add(group.key)
    found = [sorted(keys) for keys in spellings.values() if len(keys) > 1]
    if not found:
        return []
    return [
        f"Writers whose names differ in capitals or spaces only: {some([repr(keys)[1:-1] for keys in found], 3)}. Each "
        "counts as a writer, so the images of one person may be in several splits. Write the names alike."
    ]


def _logged(survey: _Survey, tables: Sequence[Table]) -> list[str]:
    """Says which tables are logs of requests, whose texts nobody has corrected."""
    return [
        f"A model wrote {survey.by_model[table.path]} texts of {table.name}, a log of requests: they are not what "
        "people see in the images. `htr review --logs` makes a folder of such images for people to correct; in rows "
        f"that are corrected here, empty the column {table.names[table.labelling_model]}."
        for table in tables
        if table.path in survey.by_model
        and table.labelling_model is not None
        and table.names[table.labelling_model].lower() != LABELLING_MODEL
    ]


def _nameless(survey: _Survey, tables: Sequence[Table]) -> str:
    """What is wrong where some rows name their writer and others do not, as where a column has got another name."""
    count = survey.nameless.total()
    bare = next((table for table in tables if table.writer is None and table.path in survey.nameless), None)
    return (
        f"{count} of {count + survey.groups.total()} rows name no writer"
        f"{f', such as those of {bare.name}, which has no column for it' if bare else ''}. Nothing keeps the images of "
        "their writers in one split, so the error on unseen writers is higher than measured. Name the writer in each "
        "row, in a column that is called the same in all tables."
    )


def _nothing_to_train_on(survey: _Survey, tables: Sequence[Table]) -> list[str]:
    if survey.trains or not survey.rows:
        return []
    malformed = f"{survey.malformed_rows} of {counted(survey.rows, 'row')} are malformed, such as {survey.malformed}."
    if survey.malformed_rows == survey.rows:
        return [f"No row is left to train on: {malformed}"]
    named = [f"{table.name} ({table.default_split})" for table in tables if table.default_split and table.split is None]
    because = f" because of the names of {', '.join(named)}. Rename what is to be trained on" if named else ""
    return [
        f"No row is left to train on: all are of {' and '.join(sorted(survey.given))}{because}."
        + (f" Besides, {malformed}" if survey.malformed_rows else "")
    ]
