"""TFX's Evaluator, which notes what it has compared the candidate with, and refuses its start as a new model."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Any

from tfx.components.evaluator import component, executor
from tfx.dsl.components.base import executor_spec
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import path_utils

from components.common import storage
from components.common.artifacts import bless, write_text
from components.common.versions import kept_start
from components.evaluator import kept_texts
from components.evaluator.tfma_verdict import NOTE_FILE
from components.evaluator.verdict import Baseline
from serving.version_directory import GRAPH_FILE

_BASELINE = standard_component_specs.BASELINE_MODEL_KEY
# What TFX's executor takes the predictions from, by name.
_PREDICTIONS = {standard_component_specs.MODULE_PATH_KEY: "components.evaluator.predictions"}


class EvaluatorExecutor(executor.Executor):
    """TFX's executor, for which an artifact without a model is no baseline."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Evaluates the candidate, compares it with the baseline if there is one, and notes which that is."""
        given = input_dict.get(_BASELINE, [])
        models = [m for m in given if storage.exists(f"{path_utils.serving_model_path(m.uri)}/{GRAPH_FILE}")]
        evaluation = artifact_utils.get_single_uri(output_dict[standard_component_specs.EVALUATION_KEY])
        with kept_texts.keeping_in(os.path.join(evaluation, kept_texts.FOLDER)):
            super().Do({**input_dict, _BASELINE: models}, output_dict, {**exec_properties, **_PREDICTIONS})
        found = Baseline.noted_in(given[0].uri) if given else None
        candidate = artifact_utils.get_single_uri(input_dict[standard_component_specs.MODEL_KEY])
        unchanged = kept_start(path_utils.serving_model_path(candidate), found.in_service if found else "")
        if unchanged:
            bless(artifact_utils.get_single_instance(output_dict[standard_component_specs.BLESSING_KEY]), False)
        note = {"compared_with": found and asdict(found), "unchanged": unchanged}
        write_text(os.path.join(evaluation, NOTE_FILE), json.dumps(note, ensure_ascii=False))


class Evaluator(component.Evaluator):
    """TFX's Evaluator, where the baseline may be the output of a step that found none."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(EvaluatorExecutor)
