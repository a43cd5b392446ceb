"""The command `read`: text from images at once, without a server; a workspace is used where there is one."""

from __future__ import annotations

import argparse
import glob
import os
import sys
from typing import TYPE_CHECKING

from pipeline.commands.common import MODELS, AddCommand, add_config_arguments, read_config
from pipeline.commands.models import add_model_arguments, check_local, chosen_model, finding_a_model, tell_of_words
from pipeline.commands.options import positive

if TYPE_CHECKING:
    from htr_client.base import DecoderOf
    from htr_client.decoding import Decoder
    from serving.local import LocalClient


def add_commands(add: AddCommand) -> None:
    """Adds it to the parser of `htr`."""
    from htr_client.cli import add_image_arguments

    command = add(
        "read",
        _read,
        "print the text of images, with a pushed model or the base model; needs no server",
        "htr read page.jpg",
    )
    add_image_arguments(command, kind="auto")
    add_model_arguments(command)
    command.add_argument(
        "--batch-size",
        type=positive,
        default=32,
        metavar="N",
        help="most images of one model call (default: %(default)s)",
    )
    add_config_arguments(command, None, MODELS)


def _read(arguments: argparse.Namespace) -> int:
    from htr_client.cli import run

    return run(arguments, connect=_open)


def _open(arguments: argparse.Namespace, decoder: Decoder | DecoderOf | None) -> LocalClient:
    from components.common.console import announced, quiet
    from htr_client.files import LINE_FORMATS
    from pipeline import local_models

    config = read_config(arguments)
    model = chosen_model(config, arguments)
    pushed = finder = None
    if arguments.kind != "line" or arguments.format not in LINE_FORMATS:
        with finding_a_model("--line-finder"):
            pushed = local_models.pushed_line_finder(config, arguments.line_finder)
        with finding_a_model():
            finder = pushed or local_models.base_line_finder()
    for option, path in (("--model", model.path), ("--line-finder", finder or "")):
        check_local(option, path)
    print(f"note: {model.note}", file=sys.stderr, flush=True)
    if arguments.kind == "page" or arguments.format not in LINE_FORMATS:  # else each page tells
        tell_of_words(model)
    if pushed and not arguments.line_finder:
        print(f"note: The line finder is {pushed}", file=sys.stderr, flush=True)
    from serving.local import LocalClient
    from serving.runner import without_extras

    client = LocalClient(
        model.path, model.name, decoder=decoder, batch_size=arguments.batch_size, line_finder=finder,
        max_pixels=config.data.max_pixels,
    )  # fmt: skip
    # Of files that are not there, the client tells without a model.
    if any(image == "-" or glob.has_magic(image) or os.path.exists(image) for image in arguments.images):
        with quiet(), announced("Loading TensorFlow and the model"), without_extras():
            client.connect()
    return client
