"""When the rows of a log were written: logs only grow, and yesterday is a small part of them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

from components.example_gen.table import DatasetError, Table

_COLUMN = "time"
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_since(text: str) -> datetime:
    """The moment that an option names: so long ago (`12h`, `1d`), or a date, of UTC unless it says another zone.

    Raises:
        ValueError: It is neither.
    """
    if found := re.fullmatch(r"(\d{1,6})([mhdw])", text.strip()):
        try:
            return datetime.now(timezone.utc) - timedelta(**{_UNITS[found[2]]: int(found[1])})
        except OverflowError:
            pass
    elif (moment := read_time(text)) is not None:
        return moment
    raise ValueError("either so long ago, such as 12h or 1d (m, h, d and w), or a date such as 2026-11-28T06:00")


def read_time(text: str) -> datetime | None:
    """The moment that a field of a log holds; None for what is no date in ISO 8601."""
    try:
        moment = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text.strip()))  # as Python 3.11 reads it
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def time_column(table: Table) -> int:
    """Position of the column with the times.

    Raises:
        DatasetError: There is none.
    """
    names = [name.lower() for name in table.names]
    if _COLUMN not in names:
        raise DatasetError(f"{table.path} has no column {_COLUMN}, by which --since chooses rows. Leave --since out.")
    return names.index(_COLUMN)
