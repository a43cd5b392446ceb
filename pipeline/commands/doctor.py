"""The command `doctor`: what this machine has for htr, and what prevents work there."""

from __future__ import annotations

import argparse

from pipeline.commands.common import AddCommand, CommandError, add_config_arguments, read_config
from pipeline.commands.options import positive
from pipeline.exit_codes import USAGE


def add_commands(add: AddCommand) -> None:
    """Adds it to the parser of `htr`."""
    command = add(
        "doctor", _doctor, "say what htr would use on this machine, and what prevents work there", "htr doctor"
    )
    command.add_argument(
        "--gpu", action="store_true", help="train and transcribe on the GPU and on the CPU, and compare"
    )
    command.add_argument("--device", choices=["gpu", "cpu"], help="with --gpu: cpu leaves the GPU out (default: gpu)")
    command.add_argument("--seconds", type=positive, metavar="S", help="with --gpu: length of a training (default: 60)")
    command.add_argument("--json", action="store_true", help="print everything as JSON")
    add_config_arguments(command, None)


def _doctor(arguments: argparse.Namespace) -> int:
    from pipeline.doctor import command

    for option, value in (("--device", arguments.device), ("--seconds", arguments.seconds)):
        if value is not None and not arguments.gpu:
            raise CommandError(f"{option} goes with --gpu.", USAGE)
    arguments.device, arguments.seconds = arguments.device or "gpu", arguments.seconds or 60
    return command.run(arguments, read_config(arguments).workspace)
