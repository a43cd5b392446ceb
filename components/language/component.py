"""LanguageModel: puts a language model into the model that Trainer has exported.

It is a step of its own, so that other settings or texts do not train the network again. Its model is Trainer's, with
two files changed: the language model, which is empty in Trainer's, and the settings, which tell about it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.dsl.io import fileio
from tfx.types import artifact_utils, channel_utils, component_spec, standard_artifacts
from tfx.utils import path_utils

from components.base_model import packing
from components.common import storage, version_settings
from components.common.artifacts import write_text
from components.common.console import console
from components.common.fingerprint_driver import FingerprintDriver
from components.example_gen.examples import records
from components.language import texts
from components.language.learning import MOST_CHARACTERS, Learnt, Recorded, learn
from components.language.recording import record
from components.language.settings import LanguageConfig
from components.recogniser.model import ExportedModel
from serving.version_directory import LANGUAGE_MODEL_FILE, SETTINGS_FILE


class LanguageModelSpec(component_spec.ComponentSpec):
    """Inputs, output and settings of LanguageModel."""

    PARAMETERS = {
        "config": component_spec.ExecutionParameter(type=str),
        # Set by the driver, so that other texts are a changed input.
        "input_fingerprint": component_spec.ExecutionParameter(type=str, optional=True),
    }
    INPUTS = {
        "examples": component_spec.ChannelParameter(type=standard_artifacts.Examples),
        "trained_model": component_spec.ChannelParameter(type=standard_artifacts.Model),
    }
    OUTPUTS = {"model": component_spec.ChannelParameter(type=standard_artifacts.Model)}


class Driver(FingerprintDriver):
    """Takes a fingerprint of the text files."""

    def fingerprint(self, exec_properties: dict[str, Any]) -> str:
        """Of their content."""
        return texts.fingerprint(LanguageConfig.model_validate_json(exec_properties["config"]).texts)


class Executor(base_executor.BaseExecutor):
    """Copies the model, learns, and writes what was learnt."""

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:
        """Writes the model.

        Raises:
            ConfigError: A file of `language.texts` cannot be read.
        """
        config = LanguageConfig.model_validate_json(exec_properties["config"])
        examples = artifact_utils.get_single_uri(input_dict["examples"])
        exported = path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict["trained_model"]))
        model = ExportedModel(exported)
        labels = texts.labels(records(examples, "train"))
        learnt = learn_for(model, labels, record(model, examples, "validation"), config)
        console().print(f"  {in_words(learnt)}", markup=False)
        directory = path_utils.serving_model_dir(artifact_utils.get_single_uri(output_dict["model"]))
        storage.copy_tree(exported, directory)
        put(learnt, directory)


def learn_for(
    model: ExportedModel, labels: Iterable[str], validation: Sequence[Recorded], config: LanguageConfig
) -> Learnt:
    """Learns the language model of an exported model: from its base's texts and those of the settings, too.

    Args:
        model: The network, which tells from which base its training started.
        labels: Labels of the training split.
        validation: Images of the validation split.
        config: What to learn from, and how.

    Raises:
        ConfigError: A file of `language.texts` cannot be read.
    """
    base = texts.started_from(model.settings) if config.base_texts else None
    known, base_texts = (packing.language_model(base), packing.texts(base)) if base else (None, [])
    return learn(labels, model.alphabet, validation, config, known, base_texts, texts.lines(config.texts))


def put(learnt: Learnt, directory: str) -> None:
    """Puts a language model into an exported model that has none.

    Args:
        learnt: The language model, and facts about it for the settings file.
        directory: Directory of the SavedModel.
    """
    content = learnt.model.to_bytes() if learnt.model is not None else b""
    with fileio.open(os.path.join(directory, LANGUAGE_MODEL_FILE), "wb") as file:
        file.write(content)
    path = os.path.join(directory, SETTINGS_FILE)
    settings = {**version_settings.read(directory), "language_model": learnt.facts}
    write_text(path, json.dumps(settings, indent=1, ensure_ascii=False))


def in_words(learnt: Learnt) -> str:
    """What was learnt, and what the validation images told of it, for the log of the run."""
    facts = learnt.facts
    if "validation_cer" not in facts:
        return "no language model: the validation split has no image that tells whether one helps"
    images, weight = f"{facts['validation_images']:,} validation images", facts["validation_weight"]
    without, with_it = facts["validation_cer_best_path"], facts["validation_cer"]
    change = f"CER {without:.4f} without, {with_it:.4f} with weight {weight:g}"
    if facts.get("base_weight", weight) != weight:
        change += f", {facts['validation_cer_base_weight']:.4f} with the base's weight {facts['base_weight']:g}"
    change += f", on {images}"
    if facts["texts_left_out"]:
        change += f"; {facts['texts_left_out']:,} texts are left out, beyond {MOST_CHARACTERS:,} characters"
    if learnt.model is None:
        return f"no language model: it does not help by more than chance ({change})"
    whose = ", the base's, which these images do not contradict" if facts["trusts_base"] else ""
    return f"{facts['ngrams']:,} n-grams, {facts['bytes'] / 1e3:,.0f} kB, weight {weight:g}{whose}: {change}"


class LanguageModel(base_component.BaseComponent):
    """Gives a model the language model that travels with it."""

    SPEC_CLASS = LanguageModelSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)
    DRIVER_CLASS = Driver

    def __init__(self, examples: Any, trained_model: Any, config: LanguageConfig):
        """Creates the step.

        Args:
            examples: Channel of ExampleGen's examples.
            trained_model: Channel of the model that Trainer has exported.
            config: What to learn from, and how.
        """
        super().__init__(
            LanguageModelSpec(
                examples=examples, trained_model=trained_model, config=config.model_dump_json(),
                model=channel_utils.as_channel([standard_artifacts.Model()]),
            )
        )  # fmt: skip
