"""LineEvaluator: finds and transcribes the lines of the evaluation pages, asks the gate.

The same recogniser transcribes the true lines, those of the candidate and those of the baseline. What is written into
the evaluation artifact:

    verdict.json   the verdict, see `components.line_finder.verdict`
    pages.json     for each page its name, document, score and CER, and the lines that the candidate found
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.dsl.io import fileio
from tfx.types import artifact_utils, channel_utils, component_spec, standard_artifacts
from tfx.utils import path_utils

from components.common import storage
from components.common.artifacts import bless, write_text
from components.common.console import console
from components.common.fingerprint_driver import FingerprintDriver
from components.common.versions import kept_start
from components.common.words import counted
from components.evaluator.verdict import Baseline
from components.line_finder.data import LabelledPage
from components.line_finder.examples import read_examples
from components.line_finder.measuring import TextErrors, as_served, compare, texts_of
from components.line_finder.metric import LineScore, score_page
from components.line_finder.recogniser import LineGateError, model_for_lines
from components.line_finder.settings import LineGateConfig
from components.line_finder.verdict import PAGES_FILE, VERDICT_FILE, decide, metrics_of
from htr_client import pages
from htr_client.pages.reading import Recognise
from serving.local import LocalClient
from serving.local_lines import LocalLineFinder
from serving.version_directory import GRAPH_FILE


class LineEvaluatorSpec(component_spec.ComponentSpec):
    """Inputs, outputs and settings of LineEvaluator."""

    PARAMETERS = {
        "gate": component_spec.ExecutionParameter(type=str),
        "recogniser_dir": component_spec.ExecutionParameter(type=str),
        "recogniser_name": component_spec.ExecutionParameter(type=str),
        # Set by the driver, so that another recogniser is a changed input.
        "input_fingerprint": component_spec.ExecutionParameter(type=str, optional=True),
    }
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "baseline_model": component_spec.ChannelParameter(type=standard_artifacts.Model),
    }
    OUTPUTS = {
        "evaluation": component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
    }


def _recogniser(exec_properties: dict[str, Any]) -> str:
    gate = LineGateConfig.model_validate_json(exec_properties["gate"])
    return model_for_lines(gate, exec_properties["recogniser_dir"], exec_properties["recogniser_name"])


class Driver(FingerprintDriver):
    """Takes a digest of the recogniser."""

    def fingerprint(self, exec_properties: dict[str, Any]) -> str:
        """Path and content of the version."""
        version = _recogniser(exec_properties)
        return f"{version} {storage.digest(version)}"


class Executor(base_executor.BaseExecutor):
    """Measures candidate and baseline on the same pages, and decides."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Writes verdict and pages, and marks the blessing.

        Raises:
            LineGateError: There is no recogniser, or no evaluation page has a text.
        """
        gate = LineGateConfig.model_validate_json(exec_properties["gate"])
        recogniser = _recogniser(exec_properties)
        console().print(f"  transcribing with {recogniser}", markup=False)
        candidate = path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict["model"]))
        given = artifact_utils.get_single_uri(input_dict["baseline_model"])
        baseline_path = path_utils.serving_model_path(given)
        finders = [candidate, baseline_path] if fileio.exists(f"{baseline_path}/{GRAPH_FILE}") else [candidate]
        split = artifact_utils.get_split_uri(input_dict["examples"], "eval")
        with storage.here(recogniser) as version, LocalClient(version) as client:
            told, scores, errors = _measure(
                read_examples([os.path.join(split, "*")]), finders, client.transcribe_many
            )  # fmt: skip
        if uncut := errors[0].uncut:
            console().print(f"  {counted(uncut, 'line')} with a text cannot be cut, and count on neither side")
        if not errors[0].true.length:
            raise LineGateError(
                "No line of the evaluation pages has a text, so the gate cannot compare the texts of the found lines "
                "with those of the true ones. Add transcribed pages."
            )
        metrics = [metrics_of(len(told), *pair) for pair in zip(scores, errors, strict=True)]
        before = Baseline.noted_in(given) or Baseline("none")
        unchanged = kept_start(candidate, before.in_service)
        baseline = metrics[1] if len(metrics) > 1 else None
        verdict = decide(gate, metrics[0], baseline, before, unchanged, recogniser)
        evaluation = artifact_utils.get_single_uri(output_dict["evaluation"])
        write_text(os.path.join(evaluation, VERDICT_FILE), json.dumps(verdict.as_dict(), ensure_ascii=False))
        write_text(os.path.join(evaluation, PAGES_FILE), json.dumps(told, ensure_ascii=False))
        bless(artifact_utils.get_single_instance(output_dict["blessing"]), verdict.blessed)


def _measure(
    labelled: Iterator[LabelledPage], finders: list[str], recognise: Recognise
) -> tuple[list[dict[str, Any]], list[LineScore], list[TextErrors]]:
    """Facts about each page with the lines of the first finder; score and errors of each finder over all pages."""
    told: list[dict[str, Any]] = []
    scores, errors = [LineScore() for _ in finders], [TextErrors() for _ in finders]
    with ExitStack() as stack:
        ways = [as_served(stack.enter_context(LocalLineFinder(path))) for path in finders]
        for page in labelled:
            read = texts_of(page, page.lines, recognise)
            for i, find in enumerate(ways):
                found = find(page.grey)
                score = score_page(page.lines, found)
                reading = compare(page, read, found, texts_of(page, found, recognise))
                scores[i] += score
                errors[i].merge(reading)
                if i == 0:
                    height, width = page.grey.shape
                    told.append({
                        "name": page.name, "document": page.document, "true": score.true, "found": score.found,
                        "matched": score.matched, "true_edits": reading.true.edits, "edits": reading.found.edits,
                        "characters": reading.true.length,
                        "lines": json.loads(pages.write(pages.Page(page.name, width, height, found), "json"))["lines"],
                    })  # fmt: skip
    return told, scores, errors


class LineEvaluator(base_component.BaseComponent):
    """Measures a line finder by what is read in its lines, and blesses it or not."""

    SPEC_CLASS = LineEvaluatorSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)
    DRIVER_CLASS = Driver

    def __init__(
        self, examples: Any, model: Any, baseline_model: Any, gate: LineGateConfig, recogniser_dir: str,
        recogniser_name: str,
    ):  # fmt: skip
        """Creates the step.

        Args:
            examples: Channel of the pages.
            model: Channel of the line finder.
            baseline_model: Channel of the one that it is compared with, which may be empty.
            gate: The bounds, and which recogniser transcribes.
            recogniser_dir: Directory of the recogniser's versions.
            recogniser_name: Its name in the file of labels.
        """
        super().__init__(
            LineEvaluatorSpec(
                examples=examples, model=model, baseline_model=baseline_model,
                gate=gate.model_dump_json(), recogniser_dir=recogniser_dir, recogniser_name=recogniser_name,
                evaluation=channel_utils.as_channel([standard_artifacts.ModelEvaluation()]),
                blessing=channel_utils.as_channel([standard_artifacts.ModelBlessing()]),
            )
        )  # fmt: skip
