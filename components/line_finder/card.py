"""The model card of a line finder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from components.line_finder.settings import LineFinderConfig, LineTrainingConfig


def model_card(
    config: LineFinderConfig, train: LineTrainingConfig, credits: Sequence[str], pages: int, metrics: Mapping[str, Any]
) -> str:
    """Writes the card.

    Args:
        config: Sizes of network and pages.
        train: How it was trained.
        credits: Whom to attribute for the data, with licences.
        pages: Number of pages that were trained on.
        metrics: Metrics of the version: `parameters`, `history`, `best_epoch`, and `evaluation` by set.

    Returns:
        Markdown.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined,
        autoescape=jinja2.select_autoescape(("html.j2",)), trim_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template("model_card.md.j2").render(
        config=config, train=train, credits=credits, pages=pages, metrics=metrics
    )
