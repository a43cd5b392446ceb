"""The models that commands without a server take: options that name them, and errors where there is none."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.commands.common import CommandError
from pipeline.exit_codes import ERROR, USAGE

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.local_models import Model


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
        help="a version's folder, or a folder of versions (default: the one in service, else the base model)",
    )
    model.add_argument(
        "--base", metavar="PRESET", help="the base model for this preset (line, word), whatever there is"
    )
    if line_finder:
        command.add_argument(
            "--line-finder",
            metavar="DIR",
            help="as --model, the line finder for pages (default: the one in service, else the base line finder)",
        )


@contextlib.contextmanager
def finding_a_model(option: str = "") -> Iterator[None]:
    """Turns the lack of a model into the error of a command.

    Args:
        option: Option that names the model; nothing where none does, and the arguments are not what is wrong.

    Raises:
        CommandError: There is no such model, or none at all, or it is damaged.
    """
    from pipeline.local_models import NoModelError

    try:
        yield
    except NoModelError as error:
        raise CommandError(f"{option}: {error}" if option else str(error), USAGE if option else ERROR) from error


def chosen_model(config: Config, arguments: argparse.Namespace) -> Model:
    """Finds the model that the options `--model` and `--base` of `add_model_arguments` choose.

    Raises:
        CommandError: There is no such model, or none at all.
    """
    from pipeline import local_models

    with finding_a_model("--model" if arguments.model else "--base" if arguments.base else ""):
        return local_models.find_model(config, arguments.model, arguments.base)


def tell_of_words(model: Model) -> None:
    """Prints a note if a model that is to transcribe pages is one for single words."""
    from pipeline.local_models import preset_of

    if preset_of(model.path) == "word":
        print(
            "note: This model is for single words, and the lines of pages are longer: --base line takes the base model "
            "for lines.",
            file=sys.stderr, flush=True,
        )  # fmt: skip


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
