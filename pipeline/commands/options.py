"""Options of several commands: conversions of their texts for argparse, and the files that they name."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from pipeline.commands.common import CommandError
from pipeline.exit_codes import USAGE

if TYPE_CHECKING:
    from datetime import datetime


def positive(text: str) -> int:
    """Converts an option's text to a number above zero, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def fraction(text: str) -> float:
    """Converts an option's text to a number from 0 to 1, for argparse."""
    from components.common import fractions

    try:
        return fractions.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error} (got {text})") from error


def moment(text: str) -> datetime:
    """Converts an option's text to a moment, for argparse."""
    from components.tools.log_times import parse_since

    try:
        return parse_since(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error} (got {text})") from error


def add_since_argument(command: argparse.ArgumentParser, of: str) -> None:
    """Adds `--since`, for logs.

    Args:
        command: Parser of the command.
        of: Option that names the logs.
    """
    command.add_argument(
        "--since", type=moment, metavar="TIME",
        help=f"of {of} only rows whose column `time` is not older: 12h, 1d, or a date in UTC (for logged requests)",
    )  # fmt: skip


def add_prometheus_argument(command: argparse.ArgumentParser) -> None:
    """Adds the option that names a file for Prometheus, which `write_output` writes."""
    text = "also write the figures for the textfile collector of Prometheus' node exporter"
    command.add_argument("--prometheus", type=_textfile, metavar="FILE.prom", help=text)


def _textfile(path: str) -> str:
    if not path.endswith(".prom"):
        raise argparse.ArgumentTypeError(f"the textfile collector passes over {path}: its files are named *.prom")
    return path


def write_output(option: str, file: str, content: str) -> None:
    """Writes a file that an option names; others see it whole or not at all.

    Raises:
        CommandError: The file cannot be written.
    """
    from components.common import storage

    try:
        storage.write(file, content.encode())
    except OSError as error:
        raise CommandError(f"{option} {file} cannot be written: {error.strerror or error}.") from error


def check_can_be_written(option: str, file: str) -> None:
    """Tells that a file cannot be written before the work for it is done.

    Args:
        option: Option that names it.
        file: Path of the file; a device such as /dev/stdout is taken as it is.

    Raises:
        CommandError: The file is a folder, or its folder is missing or cannot be written.
    """
    from components.common import storage

    folder = os.path.dirname(file if storage.is_remote(file) else os.path.abspath(file))
    if not storage.is_remote(file):
        if os.path.isdir(file):
            raise CommandError(f"{option} {file} is a folder. Name a file in it.", USAGE)
        if not os.path.isdir(folder):
            raise CommandError(f"{option} {file}: there is no folder {os.path.dirname(file)}.", USAGE)
        if os.path.exists(file) and not os.path.isfile(file):
            return
    try:
        storage.check_writable(folder)  # rights alone do not tell, as in /proc
    except OSError as error:
        raise CommandError(f"{option} {file} cannot be written: {error.strerror or error}.") from error
