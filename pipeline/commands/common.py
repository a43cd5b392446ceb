"""What the commands share: the readable error, the configuration of a command line, logs and runs of a workspace."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pipeline.exit_codes import ERROR, USAGE

if TYPE_CHECKING:
    from pipeline.config import Config

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
    if getattr(arguments, "workspace", None):
        settings["workspace"] = arguments.workspace
    if getattr(arguments, "task", None):
        settings["task"] = arguments.task
    try:
        config = load(arguments.config, arguments.set, **settings)
    except ConfigError as error:
        raise CommandError(str(error), USAGE) from error
    # No shell expands what stands in a file or behind `--set push.model_dir=`.
    return config.model_copy(update={"workspace": os.path.expanduser(config.workspace)})


def add_config_arguments(
    command: argparse.ArgumentParser, data: str | None = DATA, workspace: str | None = WORKSPACE
) -> None:
    """Adds the options that `read_config` reads.

    Args:
        command: Parser of the command.
        data: What its data folders are; None for a command that takes none.
        workspace: What the workspace is to the command; None for one that takes none.
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
    if workspace:
        command.add_argument("--workspace", metavar="DIR", help=f"{workspace} (default: workspace)")


def add_task_argument(command: argparse.ArgumentParser) -> None:
    """Adds the option that says which pipeline is meant."""
    command.add_argument(
        "--task", choices=("text", "pages"), help="text: a recogniser (default); pages: a line finder, from pages"
    )


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
