"""The pipeline: which step reads what from which. Runners only say where it runs."""

from __future__ import annotations

import os
from typing import Any

from tfx.components import Evaluator, StatisticsGen, Trainer, Transform
from tfx.components.schema_gen.import_schema_gen.component import ImportSchemaGen
from tfx.dsl.components.common.resolver import Resolver
from tfx.orchestration import pipeline
from tfx.proto import pusher_pb2, trainer_pb2, transform_pb2
from tfx.types import Channel
from tfx.types.standard_artifacts import Model, ModelBlessing

from components.evaluator import gate
from components.evaluator.baseline import PreviousBlessedModel
from components.example_gen.component import HandwritingExampleGen
from components.example_validator.component import SCHEMA_FILE, CuratedExampleValidator
from components.pusher.component import AtomicPusher
from components.serving_check.component import ServingCheck
from pipeline.config import Config


def create_pipeline(config: Config, pipeline_root: str, metadata_connection: Any = None) -> pipeline.Pipeline:
    """Builds the pipeline of a configuration.

    Each step gets only the settings that it depends on: a changed setting re-runs the steps that it changes.

    Args:
        config: all settings.
        pipeline_root: where the artifacts go.
        metadata_connection: ML Metadata connection of runners that need one.

    Returns:
        The pipeline, for any TFX runner.
    """
    transform_json = config.transform.model_dump_json()
    rejects_copy = os.path.join(config.workspace, "rejects.csv")
    example_gen = HandwritingExampleGen(config.data, config.transform, rejects_copy)
    examples = example_gen.outputs["examples"]
    schema_gen = ImportSchemaGen(schema_file=SCHEMA_FILE)
    schema = schema_gen.outputs["schema"]
    statistics_gen = StatisticsGen(examples=examples, schema=schema)
    validator = CuratedExampleValidator(statistics=statistics_gen.outputs["statistics"], schema=schema).with_id(
        "ExampleValidator"
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
    trainer = Trainer(
        run_fn="components.trainer.training.run_fn",
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        train_args=trainer_pb2.TrainArgs(splits=["train"]),
        eval_args=trainer_pb2.EvalArgs(splits=["validation"]),
        custom_config={
            "transform": transform_json,
            "model": config.model.model_dump_json(),
            "train": config.train.model_dump_json(),
            "name": config.name,
        },
    )
    model = trainer.outputs["model"]
    baseline = Resolver(
        strategy_class=PreviousBlessedModel,
        candidate=model,
        model=Channel(type=Model),
        model_blessing=Channel(type=ModelBlessing),
    ).with_id("Baseline")
    evaluator = Evaluator(
        examples=examples,
        model=model,
        baseline_model=baseline.outputs["model"],
        eval_config=gate.eval_config(config.gate),
        example_splits=["eval"],
    )
    serving_check = ServingCheck(model, evaluator.outputs["blessing"], config.name, config.push.server_command)
    pusher = AtomicPusher(
        model=model,
        model_blessing=evaluator.outputs["blessing"],
        infra_blessing=serving_check.outputs["blessing"],
        push_destination=pusher_pb2.PushDestination(
            filesystem=pusher_pb2.PushDestination.Filesystem(base_directory=config.model_dir)
        ),
        custom_config={"keep_versions": config.push.keep_versions},
    ).with_id("Pusher")
    return pipeline.Pipeline(
        pipeline_name=config.name,
        pipeline_root=pipeline_root,
        components=[
            example_gen, schema_gen, statistics_gen, validator, transform, trainer, baseline, evaluator,
            serving_check, pusher,
        ],
        enable_cache=True,
        metadata_connection_config=metadata_connection,
        beam_pipeline_args=config.beam.args,
    )  # fmt: skip
