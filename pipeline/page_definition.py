"""The pipeline of pages: from PAGE XML or ALTO to a line finder in service. `htr run --task pages` runs it."""

from __future__ import annotations

import os
from typing import Any

from tfx.orchestration import pipeline
from tfx.proto import trainer_pb2

from components.base_model import packing
from components.evaluator.baseline_step import BaselineModel
from components.line_finder.steps.evaluator import LineEvaluator
from components.line_finder.steps.example_gen import PageExampleGen
from components.line_finder.steps.report import LineReport
from components.pusher.component import Pusher
from components.serving_check.component import ServingCheck
from components.trainer.component import Trainer
from components.trainer.settings import AUTO
from pipeline.beam import options as beam_options
from pipeline.config import Config
from pipeline.tasks.pages import Pages

_SHOWN = ("pages", "line_finder", "line_training", "line_gate", "card")  # sections, in report and card


def create_page_pipeline(config: Config, pipeline_root: str, metadata_connection: Any = None) -> pipeline.Pipeline:
    """Builds the pipeline of pages of a configuration.

    Args:
        config: All settings.
        pipeline_root: Where the artifacts go.
        metadata_connection: ML Metadata connection of runners that need one.

    Returns:
        The pipeline, for a runner that calls drivers.

    Raises:
        ConfigError: The Beam options are unknown or incomplete.
    """
    name, model_dir = config.servable
    example_gen = PageExampleGen(config.data, config.pages, os.path.join(config.workspace, Pages.rejects_file))
    examples = example_gen.outputs["examples"]
    trainer = Trainer(
        run_fn="components.line_finder.training.run_fn",
        examples=examples,
        train_args=trainer_pb2.TrainArgs(splits=["train"]),
        eval_args=trainer_pb2.EvalArgs(splits=["validation"]),
        custom_config={
            "line_finder": config.line_finder.model_dump_json(),
            "line_training": config.line_training.model_dump_json(),
            # Another release of it is another start.
            "start_digest": packing.release(packing.PAGES) if config.line_training.warm_start == AUTO else None,
            "checkpoint_dir": os.path.join(pipeline_root, "checkpoints"),
        },
    )
    model = trainer.outputs["model"]
    baseline = BaselineModel(model, model_dir, name, None, config.line_training.warm_start)
    evaluator = LineEvaluator(
        examples, model, baseline.outputs["model"], config.line_gate, config.model_dir, config.name
    )
    blessing, evaluation = evaluator.outputs["blessing"], evaluator.outputs["evaluation"]
    report = LineReport(
        {name: getattr(config, name) for name in _SHOWN},
        examples=examples, quarantine=example_gen.outputs["quarantine"], model_run=trainer.outputs["model_run"],
        evaluation=evaluation,
    )  # fmt: skip
    serving_check = ServingCheck(model, blessing, name, config.push.server_command)
    pusher = Pusher(
        model, blessing, serving_check.outputs["blessing"], report.outputs["report"], model_dir,
        name, config.push.keep_versions,
    )  # fmt: skip
    components = [example_gen, trainer, baseline, evaluator, report, serving_check, pusher]
    return pipeline.Pipeline(
        pipeline_name=name,
        pipeline_root=pipeline_root,
        components=components,
        enable_cache=True,
        metadata_connection_config=metadata_connection,
        beam_pipeline_args=beam_options.for_pipeline(config.beam, components),
    )
