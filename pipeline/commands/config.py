"""The command `config`: all settings, with their meaning."""

from __future__ import annotations

import argparse

from pipeline.commands.common import (
    DATA_OR_PAGES,
    AddCommand,
    add_config_arguments,
    add_task_argument,
    read_given_config,
)
from pipeline.exit_codes import OK


def add_commands(add: AddCommand) -> None:
    """Adds it to the parser of `htr`."""
    command = add(
        "config",
        _print_config,
        "print all settings as YAML, with their meaning",
        "htr config --set transform.preset=line > run.yaml",
    )
    add_task_argument(command)
    add_config_arguments(command, DATA_OR_PAGES)


def _print_config(arguments: argparse.Namespace) -> int:
    from pipeline.config import as_yaml

    print(as_yaml(read_given_config(arguments)), end="")
    return OK
