"""The report as one self-contained HTML page: no scripts, no other files, readable on a phone and on paper."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from components.common.words import MOST_CHARACTERS, counted, some_characters, visible
from components.evaluator.verdict import Verdict
from components.report.numbers import band, bound_places, clock, percent, points, run_name, threshold

CONTENTS_FILE, PAGE_FILE, PREDICTIONS_FILE = "contents.json", "report.html", "predictions.csv"


def environment(*folders: str) -> jinja2.Environment:
    """The templates of this folder with their filters; an unknown name is an error, never an empty place.

    Args:
        *folders: Folders of other templates, which may extend those here.
    """
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, os.path.dirname(__file__)]), undefined=jinja2.StrictUndefined,
        autoescape=jinja2.select_autoescape(("html.j2",)), trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    made.filters.update(percent=percent, points=points, bound_places=bound_places, visible=visible, clock=clock,
                        run_name=run_name, threshold=threshold, yaml=_yaml, band=band, code=_code,
                        some_characters=some_characters, clusters=_clusters, counted=counted)  # fmt: skip
    made.globals.update(range_=range, most_characters=MOST_CHARACTERS)
    return made


def _code(text: str) -> str:
    """A code span of Markdown, also of text with backticks (CommonMark 0.31, section 6.1)."""
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    padding = " " if text.startswith(("`", " ")) or text.endswith(("`", " ")) else ""
    return f"{fence}{padding}{text}{padding}{fence}"


def _clusters(steps: Sequence[tuple[str, str, str]], side: str) -> list[tuple[str, str]]:
    """One side of `analysis.edit_steps`, with marks and joiners where they belong: nobody can recognise them alone.

    Args:
        steps: The steps.
        side: "truth" or "read".

    Returns:
        Kinds of steps with what they have on that side: a character and what is written on it, or nothing.
    """
    found: list[tuple[str, str]] = []
    for kind, old, new in steps:
        character = old if side == "truth" else new
        is_mark = character != "" and (unicodedata.category(character)[0] == "M" or character in "\u200c\u200d")
        base = next((place for place in reversed(range(len(found))) if found[place][1]), None)
        if not is_mark or base is None or found[base][1].isspace():
            found.append((kind, character))
            continue
        before, text = found[base]
        wrong = {before, kind} - {"equal"}
        found[base] = (wrong.pop() if len(wrong) == 1 else "replace" if wrong else "equal", text + character)
    return found


def page(
    contents: Mapping[str, Any] | None,
    run_id: str = "",
    steps: Sequence[Any] = (),
    pushed: tuple[int, str] | None = None,
    not_pushed: str = "",
    became: str = "",
) -> str:
    """The page of a run.

    Args:
        contents: What `contents.build` made; None for a run that did not come so far.
        run_id: Identifier of the run; that of the contents if empty.
        steps: `components.report.summary.Step`s of the run; empty if unknown.
        pushed: Version and its directory, where one was pushed.
        not_pushed: Why a blessed model was not pushed; empty where that is unknown.
        became: What has become of the version since it was pushed: "withdrawn", "deleted", or empty.

    Returns:
        HTML.
    """
    failed = next((step.name for step in steps if step.state == "FAILED"), None)
    if contents:  # an earlier release wrote fewer of them
        since: dict[str, Any] = {"against": "the model before", "next_steps": []}
        since |= {"language_model": None, "writer_range": None}
        contents = {**since, **contents}
        cases = contents["cases"]
        contents["coverage"] = {"kept": [], "dropped": [], **contents["coverage"]}
        contents["cases"] = {"suspect": cases.get("doubtful", []), **cases}  # as 0.1.0 calls them
        rejected = [
            {**group, "examples": [{"image_shown": row.get("picture"), **row} for row in group["examples"]]}
            for group in contents["data"]["rejected"]
        ]
        contents["data"] = {**contents["data"], "rejected": rejected}
        if compared := contents["comparison"]:
            sign = int(compared["low"] > 0) - int(compared["high"] < 0)
            contents["comparison"] = {"differs": sign * (compared["p_value"] <= 1 - contents["level"]), **compared}
    verdict = Verdict.from_dict(contents["verdict"]) if contents else None
    when = run_name(run_id or (contents["run_id"] if contents else ""))
    template = environment().get_template("report.html.j2")
    return template.render(
        r=contents, when=when, steps=steps, pushed=pushed, not_pushed=not_pushed, became=became, failed=failed,
        verdict=verdict, off=switched_off(contents) if contents else [],
    )  # fmt: skip


def switched_off(contents: Mapping[str, Any]) -> list[str]:
    """Settings of the gate that are null, so that nothing was asked."""
    return [row["setting"] for row in contents["bounds"] if row["bound"] is None]


def _yaml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
