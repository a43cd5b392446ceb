"""The model card of a line finder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from components.line_finder.settings import LineFinderConfig, LineTrainingConfig

_TEMPLATE = Path(__file__).with_name("model_card.md.j2")


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
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    template = environment.from_string(_TEMPLATE.read_text("utf-8"))
    return template.render(config=config, train=train, credits=credits, pages=pages, metrics=metrics)
