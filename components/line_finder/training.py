"""Trains a line finder on what PageExampleGen wrote: TFX Trainer's `run_fn` in the pipeline of pages."""

from __future__ import annotations

import json
import os
from typing import Any

from components.common import storage
from components.common.console import announced, console
from components.common.datasets import expand, write_text
from components.common.words import counted
from components.line_finder.data import shrunk
from components.line_finder.examples import read_examples
from components.line_finder.making import make_version
from components.line_finder.settings import LineFinderConfig, LineTrainingConfig
from components.line_finder.warm_start import find_start
from components.trainer.checkpoint import fingerprint, forget

FACTS_FILE = "facts.json"
"""In the ModelRun artifact: what `make_version` returns."""


def run_fn(fn_args: Any) -> None:
    """Called by TFX Trainer.

    Args:
        fn_args: `train_files`, `eval_files` (the validation split), `serving_model_dir`, `model_run_dir`, and in
            `custom_config` the sections `line_finder` and `line_training` as JSON, and `checkpoint_dir`, below which an
            interrupted training leaves its state.

    Raises:
        FloatingPointError: The loss is no longer finite.
        WarmStartError: The version to start from has another network.
    """
    config = LineFinderConfig.model_validate_json(fn_args.custom_config["line_finder"])
    train = LineTrainingConfig.model_validate_json(fn_args.custom_config["line_training"])
    start = find_start(train, config)
    with announced("Loading pages"):
        training, validation = (
            [shrunk(page, config.longest) for page in read_examples(files)]
            for files in (fn_args.train_files, fn_args.eval_files)
        )
    console().print(f"  starting from {start.name}", markup=False)
    console().print(
        f"  {counted(len(training), 'page')} to train on, {len(validation)} for validation, "
        f"{counted(train.epochs, 'epoch')}"
    )
    files = expand([*fn_args.train_files, *fn_args.eval_files])
    # What the start holds, not where it lies: without a cache it is unpacked to another place each time.
    same_start = train.model_copy(update={"warm_start": start.version and storage.digest(start.version)})
    settings = (config.model_dump_json(), same_start.model_dump_json())
    name = fingerprint(files, *settings, module=__name__)
    state = os.path.join(fn_args.custom_config["checkpoint_dir"], f"lines-{name}")
    facts = make_version(config, train, training, validation, fn_args.serving_model_dir, state, start)
    write_text(os.path.join(fn_args.model_run_dir, FACTS_FILE), json.dumps(facts, indent=1))
    forget(state)
