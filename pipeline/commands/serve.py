"""The command `serve`: the embedded server with the pushed versions, their labels and line finders."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from pipeline.commands.common import MODELS, AddCommand, CommandError, add_config_arguments, read_config
from pipeline.commands.models import finding_a_model
from pipeline.exit_codes import ERROR, USAGE
from serving.precision import BFLOAT16

if TYPE_CHECKING:
    from serving.rollout.labels import Labels


def add_commands(add: AddCommand) -> None:
    """Adds it to the parser of `htr`."""
    from serving.options import add_arguments

    command = add(
        "serve", _serve, "serve the pushed versions with the embedded server, for development", "htr serve --ui"
    )
    add_config_arguments(command, None, MODELS)
    add_arguments(command)
    command.add_argument("--ui", action="store_true", help="also a page to try the model: http://localhost:8600")
    command.add_argument("--pages", action="store_true", help="also serve the line finder, for htr predict --kind page")
    command.set_defaults(model_name=None)  # as the configuration has it


def _serve(arguments: argparse.Namespace) -> int:
    from components.common import storage
    from components.common.versions import offered
    from pipeline import local_models
    from serving.server import run
    from serving.status import Code, ServingError

    if arguments.mixed_precision not in ("", BFLOAT16):  # the real server warns, and goes on in float32
        raise CommandError(
            f"--mixed_precision={arguments.mixed_precision}: the one permitted value is {BFLOAT16}; without the option "
            "the server computes in float32.", USAGE,
        )  # fmt: skip
    config = read_config(arguments)
    arguments.model_name = arguments.model_name or config.name
    if not arguments.model_base_path and not arguments.model_config_file:
        if storage.is_remote(config.model_dir):
            raise CommandError(
                f"{config.model_dir} is in a bucket, which the embedded server does not read: serve it with "
                "TensorFlow Serving, or name a folder of this machine with --model_base_path.", USAGE,
            )  # fmt: skip
        if offered(config.model_dir):
            _serve_labels(arguments, config.model_dir, config.name)
        else:
            with finding_a_model():
                model = local_models.find_model(config)
            print(f"note: {model.note}; this server then goes over to the new version.", file=sys.stderr, flush=True)
            arguments.model_base_path = config.model_dir
            arguments.fallback_base_path = os.path.dirname(model.path)
    if arguments.pages:
        _serve_line_finder(arguments, config.line_finder_dir)
    if arguments.ui and not arguments.ui_port:
        arguments.ui_port = 8600
    try:
        return run(arguments)
    except ServingError as error:
        raise CommandError(
            f"The server could not start: {error.message}", USAGE if error.code == Code.INVALID_ARGUMENT else ERROR
        ) from error


def _serve_line_finder(arguments: argparse.Namespace, model_dir: str) -> None:
    """The pushed line finders, or the base one until there is a pushed one."""
    from components.common import storage
    from components.common.versions import offered
    from htr_client.model_facts import LINE_FINDER
    from pipeline.local_models import base_line_finder

    if storage.is_remote(model_dir):
        raise CommandError(f"--pages: {model_dir} is in a bucket, which the embedded server does not read.", USAGE)
    arguments.line_finder_base_path = model_dir
    if not offered(model_dir):
        with finding_a_model():
            base = base_line_finder()
        if base is None:
            raise CommandError("--pages: There is no base line finder in this installation.", USAGE)
        arguments.line_finder_fallback_base_path = os.path.dirname(base)
    elif not arguments.model_config_file and (labels := _labels(model_dir, LINE_FINDER)) and labels.labels:
        named = ", ".join(f"{label} is {version}" for label, version in sorted(labels.labels.items()))
        print(
            f"note: the newest line finder is served, whatever has a label ({named}): {labels.path} is used where the "
            "recogniser has labels, too.",
            file=sys.stderr, flush=True,
        )  # fmt: skip


def _serve_labels(arguments: argparse.Namespace, model_dir: str, name: str) -> None:
    """Once a version has been promoted, its labels say what is served; before, the newest version is."""
    labels = _labels(model_dir, name)
    if labels is None or labels.base_path is None:
        arguments.model_base_path = model_dir
        return
    # The server looks for the directory of any of its models for ever, and opens no port meanwhile.
    for entry in labels.config.model_config_list.config:
        if not os.path.isdir(entry.base_path):
            raise CommandError(
                f"{labels.path} is for servers that see the versions of {entry.name} in {entry.base_path}, which is "
                f"not a folder of this machine. To serve the newest version here: --model_base_path {model_dir}", USAGE,
            )  # fmt: skip
    arguments.model_config_file = str(labels.path)
    # At the start nothing is loaded yet; later moves of a label are checked all the same.
    arguments.allow_version_labels_for_unavailable_models = True


def _labels(model_dir: str, name: str) -> Labels | None:
    """What models.config beside a model directory says; None where there is none."""
    from serving.rollout.labels import Labels, RolloutError, config_path

    if not config_path(model_dir).exists():  # reading it takes a second, for imports
        return None
    try:
        return Labels.read(model_dir, name)
    except RolloutError as error:
        raise CommandError(str(error), USAGE) from error
