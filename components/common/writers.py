"""What a version tells goes wherever the version goes, and names of writers are personal: they stay in the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WRITER = "writer"
_NAMING = ("leaked_writers", "known_writers", "weak_writer")


def without_writers(told: Mapping[str, Any]) -> dict[str, Any]:
    """Figures and findings of a report but for those that name a writer.

    Args:
        told: What `report.contents` made, whole or as metrics, or the metrics of a line finder, which name none.

    Returns:
        The same without findings about single writers, and where slices have names without those by writer; bounds for
        single writers are told without their names.
    """
    kept = dict(told)
    if "findings" in told:
        kept["findings"] = [finding for finding in told["findings"] if finding["kind"] not in _NAMING]
    if isinstance(told.get("slices"), Mapping):
        kept["slices"] = {name: row for name, row in told["slices"].items() if not name.startswith(f"{_WRITER} = ")}
    if "bounds" in told:
        kept["bounds"] = [
            {**row, "what": f"{row['what'].partition(' for ')[0]} for a writer"} if row.get("slice") == _WRITER else row
            for row in told["bounds"]
        ]
    if gate := told.get("config", {}).get("gate"):
        bounds = {name: bound for name, bound in gate["slice_max_cer"].items() if not name.startswith(f"{_WRITER}=")}
        kept["config"] = {**told["config"], "gate": {**gate, "slice_max_cer": bounds}}
    return kept
