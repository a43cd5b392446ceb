"""Images that several rows name: copies of a table, or the wrong one of two columns."""

from __future__ import annotations

from collections.abc import Sequence

from components.common.words import counted
from components.example_gen.labels import check_label
from components.example_gen.named_images import Named, folder_beside
from components.example_gen.rejects import Rejected
from components.example_gen.settings import DataConfig
from components.example_gen.table import Table, read_rows


def repeats(tables: Sequence[Table], named: Named, data: DataConfig) -> tuple[list[str], list[str]]:
    """Says how many images several usable rows name, and whether their texts differ.

    Args:
        tables: Label files.
        named: Images that their rows name.
        data: What to refuse.

    Returns:
        Notes, and problems.

    Raises:
        DatasetError: A table cannot be read.
    """
    wanted = named.repeated()
    if not wanted:  # as nearly always, so that no row is read twice
        return [], []
    first: dict[tuple[str, str], tuple[str, str]] = {}  # text, and place of the row
    several: dict[tuple[str, str], tuple[str, str]] = {}  # places of two rows
    differ: dict[tuple[str, str], tuple[str, str]] = {}  # the same where their texts differ
    for table in tables:
        for row in read_rows(table):
            if len(row.fields) != table.columns:
                continue
            folder, _, base = row.fields[table.image].strip().rpartition("/")
            image = (folder_beside(table, folder), base)
            if not base or image not in wanted:
                continue
            try:
                text = check_label(row.fields[table.text], data)
            except Rejected:
                continue
            place = f"row {row.line} of {table.name}"
            known, known_place = first.setdefault(image, (text, place))
            if known_place != place:
                several.setdefault(image, (known_place, place))
                if known != text:
                    differ.setdefault(image, (known_place, place))
    if not several:
        return [], []
    one, other = next(iter((differ or several).values()))
    told = f"{counted(len(several), 'image')} {'is' if len(several) == 1 else 'are'} named by several rows"
    if not differ:
        return [f"{told}, such as {one} and {other}: each row counts in training and in the figures."], []
    # Without the texts: problems are told in the model card, which goes wherever the model goes.
    which = "" if len(differ) == len(several) else f", {len(differ)} of them"
    return [], [
        f"{told}{which} with different texts, such as {one} and {other}. Correct the wrong text; if a table is an "
        "older copy of another one, move it out of the data folder."
    ]
