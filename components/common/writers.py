"""What a version tells goes wherever the version goes, and names of writers are personal: they stay in the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NAMING = ("leaked_writers", "known_writers", "weak_writer")


def without_writers(told: Mapping[str, Any]) -> dict[str, Any]:
    """Figures and findings of a report but for those that name a writer.

    Args:
        told: What `report.contents` made, whole or as metrics, or the metrics of a line finder, which name none.

    Returns:
        The same without findings about single writers, and without slices by writer where slices have names.
    """
    kept = dict(told)
    if "findings" in told:
        kept["findings"] = [finding for finding in told["findings"] if finding["kind"] not in _NAMING]
    if isinstance(told.get("slices"), Mapping):
        kept["slices"] = {name: row for name, row in told["slices"].items() if not name.startswith("writer = ")}
    return kept
