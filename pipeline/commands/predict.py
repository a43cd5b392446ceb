"""The command `predict`: what `htr-client` does, with its options."""

from __future__ import annotations

import argparse

from pipeline.commands.common import AddCommand


def add_commands(add: AddCommand) -> None:
    """Adds it to the parser of `htr`."""
    from htr_client.cli import add_arguments

    command = add(
        "predict",
        _predict,
        "send images to a server and print their text",
        "htr predict word.png --server localhost:8500",
    )
    add_arguments(command)


def _predict(arguments: argparse.Namespace) -> int:
    from htr_client.cli import run

    return run(arguments)
