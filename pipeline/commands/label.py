"""The command `label`: images that nobody has labelled become training data, with what the model in service reads."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from components.common.words import counted
from pipeline.commands.common import MODELS, AddCommand, CommandError, add_config_arguments, read_config
from pipeline.commands.models import add_model_arguments, check_local, chosen_model, finding_a_model
from pipeline.commands.options import fraction
from pipeline.exit_codes import OK, USAGE

if TYPE_CHECKING:
    from components.tools.labelled import Counts
    from pipeline.config import Config
    from pipeline.local_models import Model


def add_commands(add: AddCommand) -> None:
    """Adds it to the parser of `htr`."""
    text = "make training data of images that nobody has labelled: those whose text the model is sure of"
    command = add("label", _label, text, "htr label scans --data names --output read")
    command.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders or globs")
    command.add_argument("--output", required=True, metavar="DIR", help="new folder for labels.csv and images")
    command.add_argument(
        "--above",
        type=fraction,
        default=0.5,
        metavar="C",
        help="keep texts at least as confident as C (default: %(default)s)",
    )
    add_model_arguments(command, line_finder=False)
    add_config_arguments(command, "labelled images, which are left out; may be repeated", MODELS)


def _label(arguments: argparse.Namespace) -> int:
    from components.common.console import announced
    from components.example_gen.outages import StoreError
    from components.example_gen.table import DatasetError
    from components.tools import labelled
    from components.tools.labelling import labelling
    from htr_client import HtrError
    from htr_client.files import expand
    from serving import file_lock

    config = read_config(arguments)
    model = chosen_model(config, arguments)
    check_local("--model", model.path)
    print(f"note: {model.note}", file=sys.stderr, flush=True)
    counts = labelled.Counts()
    try:
        notes: list[str] = []
        known: set[bytes] = set()
        with announced(lambda: f"Reading what is labelled: {counted(len(known), 'image')}"):
            known.update(labelled.digests(config.data, notes))
        for note in notes:
            print(f"note: {note}", file=sys.stderr, flush=True)
        paths = labelled.unlabelled(expand(arguments.images), known, counts, config.data.max_pixels)
        _write(paths, model, config.data.max_pixels, arguments.output, arguments.above, counts)
    except (HtrError, StoreError) as error:
        raise CommandError(str(error)) from error
    except (labelling.LabellingError, file_lock.LockHeld, DatasetError, ValueError) as error:
        raise CommandError(str(error), USAGE) from error
    for line in _told(counts, arguments.above):
        print(line)
    if counts.left_out:
        print(f"these are listed in {os.path.join(arguments.output, labelling.LEFT_OUT_FILE)}")
    run = ["htr", "run"]
    for option, values in (
        ("--data", [*(config.data.paths or ["LABELLED"]), os.path.abspath(arguments.output)]),
        ("--config", [arguments.config] if arguments.config else []),
        ("--set", [*arguments.set, *_preset_of(model, config)]),
        ("--workspace", [config.workspace] if arguments.workspace else []),
    ):
        run += [word for value in values for word in (option, value)]
    print(f"\n{counted(counts.labelled, 'image')} in {arguments.output}. To train with them, beside labels by people:")
    print(f"  {shlex.join(run)}")
    return OK


def _preset_of(model: Model, config: Config) -> list[str]:
    """Setting for a training on what a model has read, where none is given and it is not the default."""
    from pipeline.local_models import preset_of

    preset = None if "preset" in config.transform.model_fields_set else preset_of(model.path)
    return [] if preset in (None, config.transform.preset) else [f"transform.preset={preset}"]


def _write(paths: Iterable[str], model: Model, max_pixels: int, output: str, above: float, counts: Counts) -> None:
    from components.common.console import announced, quiet
    from components.tools.labelling import labelling
    from pipeline.local_models import base_line_finder
    from serving.local import LocalClient
    from serving.runner import without_extras

    asked = 0

    def counting() -> Iterator[str]:
        nonlocal asked
        for path in paths:
            asked += 1
            yield path

    said = announced(lambda: f"Transcribing: {counted(asked, 'image')}")
    with finding_a_model():
        finder = base_line_finder()
    reader = LocalClient(model.path, model.name, max_pixels=max_pixels, line_finder=finder)
    with quiet(), said, without_extras(), reader as client:
        answers, find_page = client.transcribe_many(counting()), client.find_page if finder else None
        labelling.write(answers, output, above, counts, max_pixels, find_page)


def _told(counts: Counts, above: float) -> Iterator[str]:
    """A line for each reason why images are left out."""
    for count, reason in (
        (counts.unsure, f"of which the model is less sure than {above:g}"),
        (counts.empty, "in which the model sees no writing"),
        (counts.page, "of a page: htr transcribe --kind page finds its lines"),
        (counts.suspect, "of another kind than the model was trained on"),
        (counts.known, "labelled already"),
        (counts.repeated, "the same as another one"),
        (len(counts.unread), f"could not be read; the first: {counts.unread[0]}" if counts.unread else ""),
    ):
        if count:
            yield f"left out: {counted(count, 'image')} {reason}"
