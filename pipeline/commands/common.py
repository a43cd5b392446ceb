"""What the commands share: the readable error, options of several commands, the configuration of a command line."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pipeline.exit_codes import ERROR, USAGE

if TYPE_CHECKING:
    from datetime import datetime

    from pipeline.config import Config
    from pipeline.reading import Model

# Adds a subcommand to `htr`: its name, the function that runs it, a sentence about it, and an example of its use.
AddCommand = Callable[[str, Callable[[argparse.Namespace], int], str, str], argparse.ArgumentParser]


DATA = "folder with labels and images; may be repeated"
DATA_OR_PAGES = "folder with labels and images (with --task pages: page images with XML); may be repeated"
WORKSPACE, RUNS = "folder for everything that is made", "folder of the runs"
MODELS = "folder of earlier runs, where models are found"


class CommandError(Exception):
    """Ends the command with a readable paragraph.

    Attributes:
        code: Exit code.
    """

    def __init__(self, message: str, code: int = ERROR):
        super().__init__(message)
        self.code = code


def read_config(arguments: argparse.Namespace) -> Config:
    """Reads the configuration that a command line describes; its paths become absolute, and a leading `~` the home.

    Args:
        arguments: What the options of `add_config_arguments` gave.

    Raises:
        CommandError: A setting is unknown or impossible.
    """
    from components.common import storage

    config = read_given_config(arguments)
    if storage.is_remote(config.workspace):
        raise CommandError(
            f"workspace: {config.workspace} is in a bucket, but it must be a folder of this machine: ML Metadata, "
            "TensorFlow and Beam write there, and do not all know buckets. Data, push.model_dir, and input and output "
            "of htr transcribe may be in one.", USAGE,
        )  # fmt: skip
    try:
        os.path.abspath(config.workspace).encode()
    except UnicodeEncodeError as error:  # the folder that the command runs in counts too
        raise CommandError(
            f"workspace: the path {os.path.abspath(config.workspace)!r} is not UTF-8, but ML Metadata keeps paths as "
            "UTF-8. Name another folder with --workspace.", USAGE,
        ) from error  # fmt: skip
    # Absolute, since artifacts are found again by these paths, from wherever the next command is started, and since
    # Airflow runs each step in a folder of its own, which it deletes.
    config = config.model_copy(update={"workspace": os.path.abspath(config.workspace)})
    for name, setting, value in list(config.paths()):
        paths = [storage.absolute(os.path.expanduser(path)) for path in ([value] if isinstance(value, str) else value)]
        found = paths[0] if isinstance(value, str) else paths
        section = getattr(config, name).model_copy(update={setting: found})
        config = config.model_copy(update={name: section})
    return config


def read_given_config(arguments: argparse.Namespace) -> Config:
    """As `read_config`, with paths as they were given, but for the workspace, which is always of this machine."""
    from components.common.settings import ConfigError
    from pipeline.config import load

    settings: dict[str, Any] = {}
    if getattr(arguments, "data", None):
        settings["data"] = {"paths": arguments.data}
    if arguments.workspace:
        settings["workspace"] = arguments.workspace
    if getattr(arguments, "task", None):
        settings["task"] = arguments.task
    try:
        config = load(arguments.config, arguments.set, **settings)
    except ConfigError as error:
        raise CommandError(str(error), USAGE) from error
    # No shell expands what stands in a file or behind `--set push.model_dir=`.
    return config.model_copy(update={"workspace": os.path.expanduser(config.workspace)})


def add_config_arguments(command: argparse.ArgumentParser, data: str | None = DATA, workspace: str = WORKSPACE) -> None:
    """Adds the options that `read_config` reads.

    Args:
        command: Parser of the command.
        data: What its data folders are; None for a command that takes none.
        workspace: What the workspace is to the command.
    """
    if data:
        command.add_argument("--data", action="append", default=[], metavar="DIR", help=data)
    command.add_argument(
        "--config",
        metavar="FILE",
        help="YAML file with settings, as `htr config` prints them; - reads them from standard input",
    )
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="a setting, its value as YAML, such as gate.max_cer=0.05; may be repeated",
    )  # fmt: skip
    command.add_argument("--workspace", metavar="DIR", help=f"{workspace} (default: workspace)")


def add_task_argument(command: argparse.ArgumentParser) -> None:
    """Adds the option that says which pipeline is meant."""
    command.add_argument(
        "--task", choices=("text", "pages"), help="text: a recogniser (default); pages: a line finder, from pages"
    )


def add_model_arguments(command: argparse.ArgumentParser, line_finder: bool = True) -> None:
    """Adds options that say which model to take.

    Args:
        command: Parser of the command.
        line_finder: Whether the command may read pages.
    """
    model = command.add_mutually_exclusive_group()
    model.add_argument(
        "--model",
        metavar="DIR",
        help="a version's folder, or a folder of versions (default: newest of the workspace, else the base model)",
    )
    model.add_argument(
        "--base", metavar="PRESET", help="the base model for this preset (line, word), whatever there is"
    )
    if line_finder:
        command.add_argument(
            "--line-finder",
            metavar="DIR",
            help="as --model, the line finder for pages (default: newest of the workspace, else the base line finder)",
        )


@contextlib.contextmanager
def finding_a_model(option: str = "") -> Iterator[None]:
    """Turns the lack of a model into the error of a command.

    Args:
        option: Option that names the model; nothing where none does, and the arguments are not what is wrong.

    Raises:
        CommandError: There is no such model, or none at all, or it is damaged.
    """
    from pipeline.reading import NoModelError

    try:
        yield
    except NoModelError as error:
        raise CommandError(f"{option}: {error}" if option else str(error), USAGE if option else ERROR) from error


def chosen_model(config: Config, arguments: argparse.Namespace) -> Model:
    """Finds the model that the options `--model` and `--base` of `add_model_arguments` choose.

    Raises:
        CommandError: There is no such model, or none at all.
    """
    from pipeline import reading

    with finding_a_model("--model" if arguments.model else "--base" if arguments.base else ""):
        return reading.find_model(config, arguments.model, arguments.base)


def check_local(option: str, path: str) -> None:
    """Checks that a model lies on this machine, as TensorFlow needs it.

    Args:
        option: Option that names it.
        path: Path of the version.

    Raises:
        CommandError: It is in a bucket.
    """
    from components.common import storage

    if storage.is_remote(path):
        raise CommandError(f"{path} is in a bucket: copy it to this machine and name it with {option}.", USAGE)


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
        if storage.is_remote(file):
            storage.check_writable(folder)
        else:
            with tempfile.TemporaryFile(dir=folder):  # rights alone do not tell, as in /proc
                pass
    except OSError as error:
        raise CommandError(f"{option} {file} cannot be written: {error.strerror or error}.") from error


@contextlib.contextmanager
def reading_runs() -> Iterator[None]:
    """Turns what may be wrong with the runs of a workspace into errors of a command.

    Raises:
        CommandError: There is no such run, or the metadata cannot be read.
    """
    from components.common import run_metadata

    try:
        yield
    except run_metadata.NoSuchRun as error:
        # Without any run the arguments are not what is wrong, as without any version.
        raise CommandError(str(error), ERROR if isinstance(error, run_metadata.NothingRun) else USAGE) from error
    except run_metadata.MetadataError as error:
        raise CommandError(str(error)) from error


@contextlib.contextmanager
def logged(log: str) -> Iterator[None]:
    """As `quiet_logs`, for a log in the workspace, which nobody may have named.

    Raises:
        CommandError: The log cannot be written.
    """
    from components.common.console import quiet_logs

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(quiet_logs(log))
        except OSError as error:
            why = error.strerror or error
            raise CommandError(
                f"The log {log} cannot be written: {why}. --workspace DIR names another folder for it."
            ) from error
        yield


@contextlib.contextmanager
def resumable(log: str, *usage: type[Exception]) -> Iterator[None]:
    """Turns the errors of a job that can go on where it stopped into those of a command.

    Args:
        log: File with the details.
        usage: Errors that say what is wrong with the arguments.

    Raises:
        CommandError: The job failed.
    """
    try:
        yield
    except usage as error:
        raise CommandError(str(error), USAGE) from error
    except Exception as error:
        raise CommandError(
            f"{type(error).__name__}: {error}\nThe same command goes on where this one stopped. The log is {log}"
        ) from error


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
