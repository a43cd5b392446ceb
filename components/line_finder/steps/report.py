"""LineReport: what a line finder does on the evaluation pages, written down whatever the gate decided.

What is written into the artifact:

    report.html      one self-contained page, with images of pages and the lines over them
    metrics.json     the figures, for programs
    model_card.md    what the line finder is for; Pusher copies it, and metrics.json, beside a pushed version
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import cv2
import numpy as np
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, channel_utils, component_spec, standard_artifacts

from components.common import storage
from components.common.artifacts import Report, write_text
from components.common.settings import Section
from components.common.words import counted
from components.example_gen.quarantine import Quarantine, read_counts
from components.line_finder.card import FEW_PAGES, model_card
from components.line_finder.data import LabelledPage
from components.line_finder.examples import read_examples
from components.line_finder.settings import LineFinderConfig, LineTrainingConfig
from components.line_finder.training import FACTS_FILE
from components.line_finder.verdict import PAGES_FILE, LineVerdict, read_verdict
from components.report import figures
from components.report.findings import Finding, Findings
from components.report.html import PAGE_FILE, environment
from components.report.numbers import run_name
from components.report.settings import CardConfig
from serving.version_directory import CARD_FILE, METRICS_FILE

_SHOWN = 12  # pages with their image
_WIDTH = 900  # pixels of such an image


class LineReportSpec(component_spec.ComponentSpec):
    """Inputs, outputs and settings of LineReport."""

    PARAMETERS = {"sections": component_spec.ExecutionParameter(type=str)}
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "quarantine": component_spec.ChannelParameter(type=Quarantine),
        "model_run": component_spec.ChannelParameter(type=standard_artifacts.ModelRun),
        "evaluation": component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation),
    }
    OUTPUTS = {"report": component_spec.ChannelParameter(type=Report)}


class Executor(base_executor.BaseExecutor):
    """Reads the artifacts of the run, draws the lines over the pages, writes the report."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Writes the files of the report."""

        def uri(name: str) -> str:
            return artifact_utils.get_single_uri(input_dict[name])

        sections = json.loads(exec_properties["sections"])
        verdict = read_verdict(uri("evaluation"))
        facts = json.loads(storage.read(os.path.join(uri("model_run"), FACTS_FILE)))
        told = json.loads(storage.read(os.path.join(uri("evaluation"), PAGES_FILE)))
        told.sort(key=lambda page: (page["true_edits"] - page["edits"], page["matched"] - page["true"], page["name"]))
        counts = read_counts(uri("quarantine"))
        split = artifact_utils.get_split_uri(input_dict["examples"], "eval")
        wanted = {page["name"]: page for page in told[:_SHOWN]}
        for page in read_examples([os.path.join(split, "*")]):
            if page.name in wanted:
                wanted[page.name]["image"] = draw(page, wanted[page.name]["lines"])
        metrics = _metrics(sections, verdict, facts, counts)
        bounds = _bounds(verdict)
        html = environment(os.path.dirname(__file__)).get_template("report.html.j2").render(
            verdict=verdict, told=told, facts=facts, counts=counts, sections=sections, bounds=bounds,
            findings=_findings(verdict, counts),
            curves=figures.learning_curves(facts["history"], facts["best_epoch"], "f1"),
            when=run_name((self._context.pipeline_run_id if self._context else None) or ""),
        )  # fmt: skip
        folder = artifact_utils.get_single_uri(output_dict["report"])
        for name, text in (
            (PAGE_FILE, html),
            (METRICS_FILE, json.dumps(metrics, ensure_ascii=False, indent=1, allow_nan=False)),
            (CARD_FILE, _card(sections, verdict, metrics, counts)),
        ):
            write_text(os.path.join(folder, name), text)


def draw(page: LabelledPage, found: list[dict[str, Any]]) -> dict[str, Any]:
    """A page as the report shows it.

    Args:
        page: The page with its true lines.
        found: The lines that were found, as JSON of `htr_client.pages`.

    Returns:
        Its image as data URI (`data`), `width` and `height` of the page in pixels, and the points of the baselines
        (`true`, `found`) and outlines (`outlines`) as SVG has them.
    """
    height, width = page.grey.shape
    shrink = min(1.0, _WIDTH / width)
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    small = cv2.resize(page.grey, size, interpolation=cv2.INTER_AREA) if shrink < 1 else page.grey
    encoded: np.ndarray = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 70])[1]
    return {
        "data": f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}",
        "width": width, "height": height,
        "true": [_points(line.baseline) for line in page.lines],
        "found": [_points(line["baseline"]) for line in found],
        "outlines": [_points(line["polygon"]) for line in found],
    }  # fmt: skip


def _points(course: Any) -> str:
    return " ".join(f"{x},{y}" for x, y in course)


def _bounds(verdict: LineVerdict) -> list[dict[str, Any]]:
    """The bounds of the gate with what each of them asks, in words."""
    words = {
        "line_gate.max_cer_ratio": "CER in found lines ÷ CER in true ones",
        "line_gate.min_f1": "F1 of the lines",
        "line_gate.max_ratio_increase": f"increase of that ratio over {verdict.compared_with}",
    }
    return [{"what": words[row.setting], **asdict(row)} for row in verdict.bounds]


def _findings(verdict: LineVerdict, counts: Mapping[str, Any]) -> list[Finding]:
    """What a person should know before the figures."""
    result = Findings()
    if (pages := verdict.metrics["pages"]) < FEW_PAGES:
        result.note(
            "few_pages",
            f"The figures rest on {counted(int(pages), 'page')} only and have no intervals: on other pages they may be "
            "quite different, and a bound that is met here may be missed.",
            "Label more pages.",
        )
    for note in counts["notes"]:
        result.note("pages", note)
    return result.sorted()


def _metrics(
    sections: Mapping[str, Any], verdict: LineVerdict, facts: Mapping[str, Any], counts: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        **verdict.as_dict(), **facts,
        "evaluation": {"evaluation split": verdict.metrics},
        "accepted": counts["accepted"], "rejected": counts["rejected"],
        "unnamed_documents": counts["unnamed_documents"], "config": sections,
    }  # fmt: skip


def _card(
    sections: Mapping[str, Any], verdict: LineVerdict, metrics: Mapping[str, Any], counts: Mapping[str, Any]
) -> str:
    card = CardConfig(**sections["card"])
    splits = counts["accepted"]
    data = [
        f"Beside them {counted(splits['validation'], 'page')} for validation and "
        f"{splits['eval']} for evaluation{'' if counts['unnamed_documents'] else ', of other documents'}."
    ]
    data += [f"Licence of the data: {card.data_licence}."] if card.data_licence else []
    data += [f"Contact: {card.contact}."] if card.contact else []
    config, train = LineFinderConfig(**sections["line_finder"]), LineTrainingConfig(**sections["line_training"])
    return model_card(config, train, data, metrics, verdict)


class LineReport(base_component.BaseComponent):
    """Writes the report of a run of the pipeline of pages, and the card of its line finder."""

    SPEC_CLASS = LineReportSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self, sections: Mapping[str, Section], **inputs: Any):
        """Creates the step.

        Args:
            sections: Those of the configuration that report and card show, by name: `pages`, `line_finder`,
                `line_training`, `line_gate`, `card`.
            **inputs: Channels `examples`, `quarantine`, `model_run` and `evaluation`.
        """
        super().__init__(
            LineReportSpec(
                sections=json.dumps({name: section.model_dump() for name, section in sections.items()}),
                report=channel_utils.as_channel([Report()]), **inputs,
            )
        )  # fmt: skip
