"""BulkInferrer: transcribes new images with the model of the run, if it is blessed; batch transcription as a step.

TFX's own BulkInferrer wants examples and writes PredictionLogs. This one reads a folder of images as it is and writes
what `htr transcribe` writes, with the images that it cannot read in a file of their own:

    texts-00000-of-00004.jsonl, ...   path, text, confidence and suspicions of each image, or of each line of its page
    texts-errors.jsonl                path, reason and detail of each that could not be read or lacks text
    pages/, pages-errors.csv          instead of both, where each page becomes a file
    counts.json                       images, errors, and of pages their number, lines and what they lack; `blessed`
                                      false and nothing else if the model was refused
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from tfx.dsl.components.base import base_beam_component, base_beam_executor, executor_spec
from tfx.types import artifact_utils, channel_utils, component_spec, standard_artifacts
from tfx.types.artifact import Artifact
from tfx.utils import path_utils

from components.base_model import packing
from components.batch_transcriber import batch, listing
from components.batch_transcriber.settings import BulkConfig
from components.batch_transcriber.transcribing import Transcriber
from components.common.artifacts import is_blessed, write_text
from components.common.fingerprint_driver import FingerprintDriver
from components.common.versions import named_version

COUNTS_FILE = "counts.json"


class Transcriptions(Artifact):
    """Texts of new images; the module's docstring lists the files."""

    TYPE_NAME = "htr.Transcriptions"  # the form that Kubeflow asks for


class BulkInferrerSpec(component_spec.ComponentSpec):
    """Inputs, output and settings of BulkInferrer."""

    PARAMETERS = {
        "config": component_spec.ExecutionParameter(type=str),
        "max_pixels": component_spec.ExecutionParameter(type=int),
        # Set by the driver, so that a new image is a new input.
        "input_fingerprint": component_spec.ExecutionParameter(type=str, optional=True),
    }
    INPUTS = {
        "model": component_spec.ChannelParameter(type=standard_artifacts.Model),
        "model_blessing": component_spec.ChannelParameter(type=standard_artifacts.ModelBlessing),
    }
    OUTPUTS = {"transcriptions": component_spec.ChannelParameter(type=Transcriptions)}


class Driver(FingerprintDriver):
    """Takes a fingerprint of the images."""

    def fingerprint(self, exec_properties: dict[str, Any]) -> str:
        """Of paths, sizes and times, and of which line finder finds the lines."""
        config = BulkConfig.model_validate_json(exec_properties["config"])
        folder = config.folder or ""
        try:
            lines = [f"{image.path}\0{image.stamp}" for image in listing.list_images(folder).images]
        except listing.NoImages:
            lines = []
        if config.kind != "line":
            named = config.line_finder and named_version(config.line_finder, "line finder")
            lines.append(named or str(packing.release(packing.PAGES)))
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


class Executor(base_beam_executor.BaseBeamExecutor):
    """Runs the batch transcription on the step's Beam engine."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Writes texts, errors and counts.

        Raises:
            BatchError: There is no such folder.
            NoVersionError: There is no such line finder.
        """
        config = BulkConfig.model_validate_json(exec_properties["config"])
        output = artifact_utils.get_single_uri(output_dict["transcriptions"])
        model_blessing = artifact_utils.get_single_instance(input_dict["model_blessing"])
        blessed = is_blessed(model_blessing)
        counts: dict[str, Any] = {"folder": config.folder, "blessed": blessed}
        if blessed:
            try:
                finder = config.line_finder and named_version(config.line_finder, "line finder")
                transcriber = Transcriber(
                    path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict["model"])), config.kind,
                    finder, config.batch_size, config.decoder, bfloat16=config.bfloat16,
                    max_pixels=exec_properties["max_pixels"],
                )  # fmt: skip
                outcome = batch.transcribe(
                    config.folder or "", os.path.join(output, config.output), transcriber,
                    self._beam_pipeline_args or [], overwrite=True, format_=config.format,
                )  # fmt: skip
                counts.update(images=outcome.images, errors=outcome.errors, suspicions=outcome.suspicions)
                if config.kind != "line":
                    counts.update(pages=outcome.pages, lines=outcome.lines, incomplete=outcome.incomplete)
            except listing.NoImages:  # nothing has arrived since the last run
                counts.update(images=0, errors=0)
        write_text(os.path.join(output, COUNTS_FILE), json.dumps(counts))


class BulkInferrer(base_beam_component.BaseBeamComponent):
    """Transcribes a folder of new images with a blessed model."""

    SPEC_CLASS = BulkInferrerSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)
    DRIVER_CLASS = Driver

    def __init__(self, model: Any, model_blessing: Any, config: BulkConfig, max_pixels: int):
        """Creates the step.

        Args:
            model: Channel of the exported model.
            model_blessing: Channel of the gate's verdict.
            config: Settings with the folder and the format.
            max_pixels: Images with more pixels are refused before they are decoded.
        """
        super().__init__(
            BulkInferrerSpec(
                model=model, model_blessing=model_blessing, config=config.model_dump_json(),
                max_pixels=max_pixels,
                transcriptions=channel_utils.as_channel([Transcriptions()]),
            )
        )  # fmt: skip
