"""The pipeline: which step reads what from which. Runners only say where it runs."""

from __future__ import annotations

import os
from typing import Any

from tfx.components import Transform
from tfx.dsl.components.common.resolver import Resolver
from tfx.orchestration import pipeline
from tfx.proto import trainer_pb2, transform_pb2
from tfx.types import Channel
from tfx.types.standard_artifacts import ExampleStatistics

from components.base_model import packing
from components.batch_transcriber.component import BulkInferrer
from components.evaluator import bounds
from components.evaluator.baseline_step import BaselineModel
from components.evaluator.component import Evaluator
from components.evaluator.gate_step import Gate
from components.example_gen.component import HandwritingExampleGen
from components.example_gen.data_version_step import DataVersion
from components.example_gen.rejects import REJECTS_FILE
from components.example_validator.component import ExampleValidator
from components.example_validator.previous_step import PreviousStatistics
from components.example_validator.schema_step import SchemaGen
from components.example_validator.statistics_step import StatisticsGen
from components.language.component import LanguageModel
from components.pusher.component import Pusher
from components.report.component import RunReport
from components.serving_check.component import ServingCheck
from components.trainer.component import Trainer, Tuner
from components.trainer.settings import AUTO
from pipeline.beam import options as beam_options
from pipeline.config import Config


def create_pipeline(
    config: Config,
    pipeline_root: str,
    metadata_connection: Any = None,
    looks_back: bool = True,
    fails_unblessed: bool = False,
) -> pipeline.Pipeline:
    """Builds the pipeline of a configuration.

    Each step gets only the settings that it depends on: a changed setting re-runs the steps that it changes.

    Args:
        config: All settings.
        pipeline_root: Where the artifacts go.
        metadata_connection: ML Metadata connection of runners that need one.
        looks_back: Whether the runner calls drivers and resolvers, which look at earlier runs in ML Metadata. Where it
            does not, the fingerprint of the data comes from a step.
        fails_unblessed: Whether a step fails when the model is not blessed, for runners that show the state of steps.

    Returns:
        The pipeline, for any TFX runner.

    Raises:
        ConfigError: The Beam options are unknown or incomplete.
    """
    transform_json = config.transform.model_dump_json()
    data_version = None if looks_back else DataVersion(config.data, config.model_dir)
    example_gen = HandwritingExampleGen(
        config.data,
        config.transform,
        os.path.join(config.workspace, REJECTS_FILE) if looks_back else None,
        data_version and data_version.outputs["fingerprint"].future()[0].value,
    )
    examples = example_gen.outputs["examples"]
    schema_gen = SchemaGen()
    schema = schema_gen.outputs["schema"]
    statistics_gen = StatisticsGen(examples, schema)
    statistics = statistics_gen.outputs["statistics"]
    before = (
        Resolver(
            strategy_class=PreviousStatistics, current=statistics, statistics=Channel(type=ExampleStatistics)
        ).with_id("PreviousStatistics")
        if looks_back
        else None
    )
    validator = ExampleValidator(
        statistics, schema, before and before.outputs["statistics"], config.drift.thresholds, config.drift.fail
    )
    transform = Transform(
        examples=examples,
        schema=schema,
        preprocessing_fn="components.transform.preprocessing.preprocessing_fn",
        # Only training data may shape the alphabet.
        splits_config=transform_pb2.SplitsConfig(analyze=["train"], transform=["train", "validation"]),
        custom_config={"transform": transform_json, "alphabet": config.data.alphabet},
        disable_statistics=True,
    )
    transform.add_upstream_node(validator)
    learning = {
        "examples": transform.outputs["transformed_examples"],
        "transform_graph": transform.outputs["transform_graph"],
        "train_args": trainer_pb2.TrainArgs(splits=["train"]),
        "eval_args": trainer_pb2.EvalArgs(splits=["validation"]),
    }
    settings = {
        "transform": transform_json,
        "model": config.model.model_dump_json(),
        "train": config.train.model_dump_json(),
        # Another release of it is another start.
        "start_digest": packing.release(config.transform.preset) if config.train.warm_start == AUTO else None,
    }
    tuner = (
        Tuner(
            tuner_fn="components.trainer.tuning.tuner_fn",
            custom_config={**settings, "tune": config.tune.model_dump_json()},
            **learning,
        )
        if config.tune.trials
        else None
    )
    trainer = Trainer(
        run_fn="components.trainer.training.run_fn",
        hyperparameters=tuner and tuner.outputs["best_hyperparameters"],
        custom_config={
            **settings,
            "name": config.name,
            "alphabet": config.data.alphabet,
            "checkpoint_dir": os.path.join(pipeline_root, "checkpoints"),
        },
        **learning,
    )
    language_model = (
        LanguageModel(examples, trainer.outputs["model"], config.language) if config.language.enabled else None
    )
    model = (language_model or trainer).outputs["model"]
    baseline = BaselineModel(model, config.model_dir, config.name, config.gate, config.train.warm_start)
    evaluator = Evaluator(
        examples=examples,
        model=model,
        baseline_model=baseline.outputs["model"],
        eval_config=bounds.eval_config(config.gate),
        example_splits=["eval"],
    )
    report = RunReport(
        config,
        baseline.outputs["model"],
        examples=examples,
        quarantine=example_gen.outputs["quarantine"],
        anomalies=validator.outputs["anomalies"],
        model=model,
        model_run=trainer.outputs["model_run"],
        evaluation=evaluator.outputs["evaluation"],
    )
    gate = Gate(evaluator.outputs["evaluation"], evaluator.outputs["blessing"]) if fails_unblessed else None
    serving_check = ServingCheck(model, evaluator.outputs["blessing"], config.name, config.push.server_command)
    if gate:
        gate.add_upstream_node(report)  # which says why
        serving_check.add_upstream_node(gate)
    pusher = Pusher(
        model, evaluator.outputs["blessing"], serving_check.outputs["blessing"], report.outputs["report"],
        config.model_dir, config.name, config.push.keep_versions,
    )  # fmt: skip
    bulk_inferrer = (
        BulkInferrer(model, evaluator.outputs["blessing"], config.bulk, config.data.max_pixels)
        if config.bulk.folder
        else None
    )
    steps = [
        data_version, example_gen, schema_gen, statistics_gen, before, validator, transform, tuner, trainer,
        language_model, baseline, evaluator, report, gate, serving_check, pusher,
        bulk_inferrer,
    ]  # fmt: skip
    components = [step for step in steps if step]
    return pipeline.Pipeline(
        pipeline_name=config.name,
        pipeline_root=pipeline_root,
        components=components,
        enable_cache=True,
        metadata_connection_config=metadata_connection,
        beam_pipeline_args=beam_options.for_pipeline(config.beam, components),
    )
