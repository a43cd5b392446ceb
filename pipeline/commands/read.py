"""The command `read`: text from images at once, without a server and without a workspace."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from pipeline.commands.common import (
    AddCommand,
    CommandError,
    add_config_arguments,
    add_model_arguments,
    find_model,
    positive,
    read_config,
)
from pipeline.exit_codes import USAGE

if TYPE_CHECKING:
    from htr_client.base import DecoderOf
    from htr_client.decoding import Decoder
    from serving.local import LocalClient


def add_commands(add: AddCommand) -> None:
    """Adds it to the parser of `htr`."""
    from htr_client.cli import add_arguments

    command = add("read", _read, "print the text of images, with a pushed model or the base model; needs no server")
    add_arguments(command, server=False)
    add_model_arguments(command)
    command.add_argument("--batch-size", type=positive, default=32, metavar="N", help="most images of one model call")
    add_config_arguments(command, data=False)


def _read(arguments: argparse.Namespace) -> int:
    from htr_client.cli import run

    return run(arguments, connect=_open)


def _open(arguments: argparse.Namespace, decoder: Decoder | DecoderOf | None) -> LocalClient:
    from components.common import storage
    from components.common.console import announced, quiet
    from pipeline.imports import without_extras
    from pipeline.reading import NoModelError, line_finder

    config = read_config(arguments)
    model = find_model(config, arguments.model, arguments.base)
    if storage.is_remote(model.path):
        raise CommandError(f"{model.path} is in a bucket: copy it to this machine and name it with --model.", USAGE)
    print(f"note: {model.note}", file=sys.stderr, flush=True)
    from serving.local import LocalClient

    try:
        finder = line_finder(config) if arguments.kind != "line" else None
    except NoModelError as error:
        raise CommandError(str(error), USAGE) from error
    if finder and finder.startswith(config.line_finder_dir):
        print(f"note: The line finder is {finder}", file=sys.stderr, flush=True)
    client = LocalClient(model.path, model.name, decoder=decoder, batch_size=arguments.batch_size, line_finder=finder)
    with quiet(), announced("Loading TensorFlow and the model"), without_extras():
        client.connect()
    return client
