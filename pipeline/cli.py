"""The command `htr`. Each subcommand imports what it needs when it runs, so that all of them start quickly."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import os
import select
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

from components.common.suggestions import did_you_mean
from pipeline import imports
from pipeline.commands import (
    config,
    data,
    doctor,
    import_pages,
    label,
    orchestrate,
    predict,
    read,
    reports,
    review,
    run,
    serve,
    transcribe,
    versions,
)
from pipeline.commands.common import CommandError
from pipeline.exit_codes import DRIFT, ERROR, NOT_BLESSED, OK, TOO_MANY_REJECTS, USAGE

__all__ = ["DRIFT", "ERROR", "NOT_BLESSED", "OK", "TOO_MANY_REJECTS", "USAGE", "CommandError", "main"]

_FAMILIES = (
    read, data, import_pages, run, orchestrate, serve, predict, review, label, transcribe, versions, config, reports,
    doctor,
)  # fmt: skip
# As `htr --help` shows the commands.
_GROUPS = {
    "Try": ("read", "sample-data", "doctor"),
    "Data": ("check", "import", "label", "review", "drift"),
    "Train": ("run", "config", "report", "runs", "compare"),
    "Serve": ("serve", "predict", "transcribe", "versions", "promote", "rollback", "restore"),
    "Orchestrate": ("compile", "submit"),
}


def main(argv: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: Arguments; those of the process if None.

    Returns:
        Exit code: 0 done, 1 failed, 2 wrong usage or configuration, 3 not blessed, 4 too many rejected rows,
        5 drift that must not be, 130 or 143 stopped by SIGINT or SIGTERM, 141 nobody reads the output any more.
    """
    from components.common.stopping import Stopped, stoppable
    from htr_client.errors import of_system
    from htr_client.streams import quiet_opencv, replace_missing, take_every_text

    replace_missing()
    take_every_text(sys.stdout)
    quiet_opencv()
    debug = False
    try:
        with stoppable(3.0 if argv is None else None):
            try:
                arguments = _parse(argv)
            finally:
                sys.stdout.flush()  # parsing --help ends the command
            debug = arguments.debug
            if argv is None:
                imports.prepare()
            if not debug:
                warnings.simplefilter("ignore")
            code = arguments.run(arguments)
            sys.stdout.flush()
            return code
    except Stopped as stopped:
        _end("\nInterrupted.\n")
        if argv is None:
            # The process is ours, and some thread of a step would keep it for long. Temporary folders go all the same;
            # whatever else libraries do at the end has what is left of the three seconds.
            with contextlib.suppress(Exception):
                atexit._run_exitfuncs()
            os._exit(stopped.code)
        return stopped.code
    except CommandError as error:
        if debug:
            raise
        _end(f"\nerror: {error}\n")
        return error.code
    except OSError as error:  # a full or read-only disk, no rights: system and file are named
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            _end()
            return 128 + signal.SIGPIPE
        if debug:
            raise
        _end(f"\nerror: {of_system(error)}\n")
        return ERROR


def _end(told: str = "") -> None:
    """Tells how a command has ended, and drops what an output does not take: Python would fail over it at its end."""
    from htr_client.streams import discard

    for out, text in ((sys.stdout, ""), (sys.stderr, told)):
        try:
            out.write(text)
            out.flush()
        except OSError:
            discard(out)


def _nobody_reads() -> bool:
    """Whether the reader of the standard output has gone, as in `htr runs | head`, which has seen enough."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


class _Parser(argparse.ArgumentParser):
    """Tells what was probably meant by a wrong command, option or choice."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += did_you_mean(str(value), map(str, action.choices or ()))
            raise

    def _print_message(self, message: str, file: Any = None) -> None:
        # Python 3.13's own one passes over an output that takes nothing, and then --help would count as written.
        (file or sys.stderr).write(message)

    def refuse(self, unknown: list[str]) -> NoReturn:
        """Ends the process because of arguments that the command does not take."""
        option = unknown[0].partition("=")[0]
        known = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
        meant = did_you_mean(option, known)
        if "--data" in known and os.path.isdir(option):
            meant = f"; did you mean --data {option}?"
        self.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from htr_client import __version__

        print(f"htr {__version__}")
        parser.exit()


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = _parser()
    if not (sys.argv[1:] if argv is None else argv):
        parser.print_help(sys.stderr)
        parser.exit(USAGE)
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        arguments.parser.refuse(unknown)
    return arguments


def _parser() -> _Parser:
    parser = _Parser(
        "htr", description="Handwritten text recognition: from a CSV and images to a gated, served model.",
        epilog="htr COMMAND --help shows the options of a command, and an example.",
    )  # fmt: skip
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str, example: str) -> argparse.ArgumentParser:
        description = text[0].upper() + text[1:] + ("" if text.endswith("?") else ".")
        command = commands.add_parser(name, help=text, description=description, epilog=f"Example: {example}")
        command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
        command.set_defaults(run=run, parser=command)
        return command

    for family in _FAMILIES:
        family.add_commands(add)
    _group(parser, commands)
    return parser


def _group(parser: argparse.ArgumentParser, commands: argparse._SubParsersAction[_Parser]) -> None:
    """Shows the commands in the groups of `_GROUPS`, where argparse knows one list of all."""
    lines = {action.dest: action for action in commands._choices_actions}
    commands._choices_actions.clear()
    parser._positionals._group_actions.remove(commands)  # it is left without a line; parser and usage keep it
    for title, names in _GROUPS.items():
        parser.add_argument_group(title)._group_actions.extend(lines[name] for name in names)


if __name__ == "__main__":
    sys.exit(main())
