"""The model card of a line finder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from components.line_finder.augmentation import STEEPEST
from components.line_finder.settings import LineFinderConfig, LineTrainingConfig
from components.line_finder.verdict import LineVerdict
from components.report.html import environment

FEW_PAGES = 10
"""Evaluation pages below which a report says that they are few."""


def model_card(
    config: LineFinderConfig,
    train: LineTrainingConfig,
    data: Sequence[str],
    metrics: Mapping[str, Any],
    verdict: LineVerdict | None = None,
) -> str:
    """Writes the card.

    Args:
        config: Sizes of network and pages.
        train: How it was trained.
        data: Sentences about the pages: their number, source and licence, what is special about them.
        metrics: Metrics of the version: `parameters`, `history`, `best_epoch`, `start`, and `evaluation` by set;
            of a run also the number of its `unnamed_documents`, see `page_plan.PagePlan`.
        verdict: Verdict of the gate; None for one that passed none.

    Returns:
        Markdown.
    """
    template = environment(os.path.dirname(__file__)).get_template("model_card.md.j2")
    angle = STEEPEST * train.augment
    return template.render(
        config=config, train=train, angle=angle, data=data, metrics=metrics, verdict=verdict,
        unnamed=metrics.get("unnamed_documents", 0), few_pages=FEW_PAGES,
    )  # fmt: skip
