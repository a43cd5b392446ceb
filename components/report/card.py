"""The model card (Mitchell et al. 2019): a page of Markdown that stays with the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from components.common.writers import without_writers
from components.evaluator.verdict import MAX_CER, Verdict
from components.report.html import environment, switched_off

REVIEWED = 0.1


def write(contents: Mapping[str, Any]) -> str:
    """The card of a run's model.

    Args:
        contents: What `contents.build` made.

    Returns:
        Markdown.
    """
    tenth = next((row for row in contents["review"] if row["share"] == REVIEWED), None)
    failures = Verdict.from_dict(contents["verdict"]).failures
    template = environment().get_template("model_card.md.j2")
    max_cer = next(row["bound"] for row in contents["bounds"] if row["setting"] == MAX_CER.setting)
    text = template.render(
        r=without_writers(contents), tenth=tenth, failures=failures, off=switched_off(contents), max_cer=max_cer
    )
    return re.sub(r"\n{3,}", "\n\n", text)
