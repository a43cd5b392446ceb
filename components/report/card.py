"""The model card (Mitchell et al. 2019): a page of Markdown that stays with the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from components.common.writers import without_writers
from components.evaluator.verdict import Verdict
from components.report.report import environment

REVIEWED = 0.1


def write(contents: Mapping[str, Any]) -> str:
    """The card of a run's model.

    Args:
        contents: What `contents.build` made.

    Returns:
        Markdown.
    """
    tenth = next(row for row in contents["review"] if row["share"] == REVIEWED)
    failures = Verdict.from_dict(contents["verdict"]).failures
    template = environment().get_template("model_card.md.j2")
    text = template.render(r=without_writers(contents), tenth=tenth, failures=failures)
    return re.sub(r"\n{3,}", "\n\n", text)
