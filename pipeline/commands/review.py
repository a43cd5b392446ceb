"""The command `review`: what a person should correct next."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from components.common.words import counted
from pipeline.commands.common import AddCommand, CommandError, add_config_arguments, read_config
from pipeline.commands.options import add_since_argument, fraction, positive
from pipeline.exit_codes import OK, USAGE

if TYPE_CHECKING:
    from components.tools.review.review import Doubt
    from htr_client import Transcription


def add_commands(add: AddCommand) -> None:
    """Adds it to the parser of `htr`."""
    from htr_client.cli import add_server_arguments

    text = "collect images that the model is not sure of, from logs or folders, for a person to correct"
    command = add("review", _review, text, "htr review --logs requests --output review")
    command.add_argument("images", nargs="*", metavar="IMAGE", help="files, folders or globs that a server transcribes")
    command.add_argument("--logs", action="append", default=[], metavar="DIR", help="logged requests; may be repeated")
    add_since_argument(command, "--logs")
    command.add_argument("--output", required=True, metavar="DIR", help="new folder for labels.csv, images and a page")
    command.add_argument(
        "--below", type=fraction, default=0.7, metavar="C",
        help="collect answers less confident than C (default: %(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--limit", type=positive, default=200, metavar="N",
        help="collect at most N images, those with the least confident answers (default: %(default)s)",
    )  # fmt: skip
    add_config_arguments(command, "labelled images, which are left out; may be repeated", None)
    add_server_arguments(command)


def _review(arguments: argparse.Namespace) -> int:
    from components.common.console import announced
    from components.example_gen.outages import StoreError
    from components.example_gen.table import DatasetError
    from components.tools import labelled
    from components.tools.review import review
    from htr_client import HtrError
    from htr_client.cli import client_from
    from htr_client.files import expand

    if bool(arguments.logs) == bool(arguments.images):
        raise CommandError("Name either --logs DIR or images for a server to transcribe.", USAGE)
    if arguments.since and not arguments.logs:
        raise CommandError("--since chooses among logged requests: name them with --logs DIR.", USAGE)
    data = read_config(arguments).data
    which = f"since {arguments.since:%Y-%m-%d %H:%M} UTC" if arguments.since else ""
    unread: list[str] = []
    notes: list[str] = []
    counts = labelled.Counts()
    known: set[bytes] = set()
    seen = 0

    def counting(answers: Iterable[Transcription]) -> Iterator[Transcription]:
        nonlocal seen
        for answer in answers:
            seen += 1
            yield answer

    def write(doubts: Iterable[Doubt]) -> tuple[int, int]:
        return review.write(doubts, arguments.output, arguments.limit, unread, which, counts, known)

    try:
        if data.paths:
            with announced(lambda: f"Reading what is labelled: {counted(len(known), 'image')}"):
                known.update(labelled.digests(data, notes))
        if arguments.logs:
            with announced("Reading the logs"):
                doubts = review.from_logs(
                    arguments.logs, arguments.below, unread, notes, arguments.since, data.max_pixels
                )
                count, found = write(doubts)
        else:
            images: Iterable[str] = list(expand(arguments.images))
            if known:
                images = labelled.unlabelled(images, known, counts, data.max_pixels)
            said = announced(lambda: f"Asking the server: {counted(seen, 'image')} answered")
            with client_from(arguments, max_pixels=data.max_pixels) as client, said:
                answers = counting(client.transcribe_many(images))
                count, found = write(review.from_answers(answers, arguments.below, unread, data.max_pixels))
    except (HtrError, StoreError) as error:
        raise CommandError(str(error)) from error
    except (review.ReviewError, DatasetError, ValueError) as error:
        raise CommandError(str(error), USAGE) from error
    finally:
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    if unread:
        print(f"{len(unread)} could not be read; the first: {unread[0]}", file=sys.stderr)
    if counts.known:
        print(f"left out: {counted(counts.known, 'image')} labelled already")
    written = counted(count, "image")
    if count < found:
        written = f"{count} of {counted(found, 'image')}, the least sure ones (--limit collects more),"
    print(f"{written} in {arguments.output}. To correct: {review.PAGE_FILE} there, or labels.csv.")
    return OK
