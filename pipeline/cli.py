"""The command `htr`. Each subcommand imports what it needs when it runs, so that all of them start quickly."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable

from pipeline.commands import config, data, orchestrate, reports, review, run, serve, transcribe, versions
from pipeline.commands.common import DRIFT, ERROR, NOT_BLESSED, OK, TOO_MANY_REJECTS, USAGE, CommandError

__all__ = ["DRIFT", "ERROR", "NOT_BLESSED", "OK", "TOO_MANY_REJECTS", "USAGE", "CommandError", "main"]

# In the order of `htr --help`.
_FAMILIES = (data, run, orchestrate, serve, review, transcribe, versions, config, reports)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: arguments; those of the process if None.

    Returns:
        Exit code: 0 done, 1 failed, 2 wrong usage or configuration, 3 not blessed, 4 too many rejected rows,
        5 drift that must not be, 130 or 143 stopped by SIGINT or SIGTERM.
    """
    from pipeline.stopping import Stopped, stoppable

    arguments = _parser().parse_args(argv)
    if not arguments.debug:
        warnings.simplefilter("ignore")
    try:
        with stoppable(3.0 if argv is None else None):
            return arguments.run(arguments)
    except Stopped as stopped:
        print("\nInterrupted.", file=sys.stderr, flush=True)
        if argv is None:
            os._exit(stopped.code)  # the process is ours, and some thread of a step would keep it for long
        return stopped.code
    except CommandError as error:
        if arguments.debug:
            raise
        print(f"\nerror: {error}", file=sys.stderr)
        return error.code
    except OSError as error:  # a full or read-only disk, no rights: system and file are named
        if arguments.debug:
            raise
        print(f"\nerror: {error}", file=sys.stderr)
        return ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "htr", description="Handwritten text recognition: from a CSV and pictures to a gated, served model."
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
        command.set_defaults(run=run)
        return command

    for family in _FAMILIES:
        family.add_commands(add)
    return parser


if __name__ == "__main__":
    sys.exit(main())
