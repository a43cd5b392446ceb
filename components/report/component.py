"""RunReport: looks at what the model does and writes it down, whatever the gate decided.

What candidate and baseline read in the evaluation split, Evaluator has kept. The candidate only looks at the images
that are shown once more, frame by frame. What is written into the artifact:

    report.html      one self-contained page
    predictions.csv  every evaluation image with label, prediction, confidence and edits
    metrics.json     the figures, for programs
    model_card.md    what the model is for
    learnt_images    which images it has learnt from, see `components.common.learnt`
    contents.json    all that the page says, so that it can be written again with push and timings

Pusher copies metrics, card and note on the images beside a pushed version.
"""

from __future__ import annotations

import json
import os
from typing import Any

from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import artifact_utils, channel_utils, component_spec, standard_artifacts
from tfx.utils import path_utils

from components.common import learnt, storage
from components.common.artifacts import Report, write_text
from components.evaluator import kept_texts
from components.evaluator.tfma_verdict import read_verdict
from components.example_gen.quarantine import Quarantine, read_counts
from components.example_gen.rejects import REJECTS_FILE
from components.example_validator.component import read_anomalies
from components.recogniser.model import loaded
from components.report import analysis, card, collect, contents, html
from components.report.material import Material
from components.report.settings import RunSettings
from components.trainer.training import HISTORY_FILE, SHEET_FILE, UNALIGNABLE_FILE
from serving.version_directory import CARD_FILE, LEARNT_FILE, METRICS_FILE, SETTINGS_FILE


class RunReportSpec(component_spec.ComponentSpec):
    """Inputs, outputs and settings of RunReport."""

    PARAMETERS = {"config": component_spec.ExecutionParameter(type=str)}
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "quarantine": component_spec.ChannelParameter(type=Quarantine),
        "anomalies": component_spec.ChannelParameter(type=standard_artifacts.ExampleAnomalies),
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "model_run": component_spec.ChannelParameter(type=standard_artifacts.ModelRun),
        "baseline_model": component_spec.ChannelParameter(type=standard_artifacts.Model, optional=True),
        "evaluation": component_spec.ChannelParameter(type=standard_artifacts.ModelEvaluation),
    }
    OUTPUTS = {"report": component_spec.ChannelParameter(type=Report)}


class Executor(base_executor.BaseExecutor):
    """Reads the artifacts of the run, lets the model look at some images again, writes the report."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Writes the files of the report."""

        def uri(name: str) -> str:
            return artifact_utils.get_single_uri(input_dict[name])

        config = RunSettings.model_validate_json(exec_properties["config"])
        examples = uri("examples")
        model = loaded(path_utils.serving_model_path(uri("model")))
        baseline = _settings(input_dict.get("baseline_model") or [])
        read = kept_texts.read(os.path.join(uri("evaluation"), kept_texts.FOLDER))
        predictions = collect.predictions(examples, read, baseline is not None, config.gate.decoder)
        shown = [place for group in analysis.choose_cases(predictions).values() for place in group]
        splits, digest = collect.read_splits(examples)
        verdict, started_from = read_verdict(uri("evaluation")), model.settings["train"]["warm_start"]
        before = {
            "start": learnt.note_of(started_from),
            "baseline": learnt.note_of(verdict.compared_with.path if verdict.compared_with else None),
        }
        material = Material(
            config=config,
            verdict=verdict,
            predictions=predictions,
            splits=splits,
            digest=digest,
            alphabet=list(model.alphabet),
            settings=model.settings,
            model_bytes=model.weight_bytes,
            readings=collect.look_closely(
                examples, model, {place: predictions["text"][place] for place in shown}, config.gate.decoder
            ),
            history=json.loads(_read(os.path.join(uri("model_run"), HISTORY_FILE)) or "[]"),
            counts=read_counts(uri("quarantine")),
            rejects=contents.parse_rejects(_read(os.path.join(uri("quarantine"), REJECTS_FILE)) or b""),
            anomalies=read_anomalies(artifact_utils.get_single_instance(input_dict["anomalies"])),
            augmented=_read(os.path.join(uri("model_run"), SHEET_FILE)),
            unalignable=len(json.loads(_read(os.path.join(uri("model_run"), UNALIGNABLE_FILE)) or "[]")),
            baseline=baseline,
            seen_before={who: learnt.count(splits["eval"].images.keys(), noted) for who, noted in before.items()},
            run_id=(self._context.pipeline_run_id if self._context else None) or "",
        )
        built = contents.build(material)
        files = {
            html.CONTENTS_FILE: json.dumps(built, ensure_ascii=False),
            METRICS_FILE: json.dumps(contents.metrics(built), ensure_ascii=False, indent=1, allow_nan=False),
            CARD_FILE: card.write(built),
            html.PAGE_FILE: html.page(built),
            html.PREDICTIONS_FILE: analysis.as_csv(predictions),
        }
        folder = artifact_utils.get_single_uri(output_dict["report"])
        for name, text in files.items():
            write_text(os.path.join(folder, name), text)
        own = splits["train"].images.keys() | splits["validation"].images.keys()
        storage.write(os.path.join(folder, LEARNT_FILE), learnt.note(own, before["start"]))


def _settings(found: list[Any]) -> dict[str, Any] | None:
    """Settings of the model to compare with, if there is one: a step that found none leaves its artifact empty."""
    paths = [path_utils.serving_model_path(artifact.uri) for artifact in found]
    settings = [_read(os.path.join(path, SETTINGS_FILE)) for path in paths]
    return next((json.loads(content) for content in settings if content), None)


def _read(path: str) -> bytes | None:
    return storage.read(path) if storage.exists(path) else None


class RunReport(base_component.BaseComponent):
    """Writes the report of a run and the card of its model."""

    SPEC_CLASS = RunReportSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self, config: RunSettings, baseline_model: Any = None, **inputs: Any):
        """Creates the step.

        Args:
            config: Settings of the run; the report shows it.
            baseline_model: Channel of the model to compare with, which may be empty.
            **inputs: Channels `examples`, `quarantine`, `anomalies`, `model`, `model_run` and `evaluation`.
        """
        super().__init__(
            RunReportSpec(
                config=config.model_dump_json(include=set(RunSettings.model_fields)),
                baseline_model=baseline_model, **inputs,
                report=channel_utils.as_channel([Report()]),
            )
        )  # fmt: skip
