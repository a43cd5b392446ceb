"""One self-contained HTML page about a run: what went in, what came out, how good it is, whether it may ship."""

from __future__ import annotations

import base64
import os
from typing import Any

import jinja2

from pipeline.config import Config
from pipeline.summary import RunSummary


def write(summary: RunSummary, config: Config, path: str) -> None:
    """Writes the report of a run.

    Args:
        summary: of the run.
        config: that it ran with.
        path: of the HTML file.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.dirname(__file__)), autoescape=True, undefined=jinja2.StrictUndefined
    )
    curves = None
    if summary.curves:
        with open(summary.curves, "rb") as file:
            curves = base64.b64encode(file.read()).decode()
    html = environment.get_template("report.html.j2").render(
        run=summary, config=config.model_dump(), curves=curves, slices=_by_column(summary)
    )
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(html)


def _by_column(summary: RunSummary) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """Slices grouped by the column that they slice by."""
    groups: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for name, metrics in summary.verdict.slices.items() if summary.verdict else ():
        column, _, value = name.partition(" = ")
        groups.setdefault(column, []).append((value, metrics))
    return groups
