"""The command `review`: what a person should correct next."""

from __future__ import annotations

import argparse
import sys

from pipeline.commands.common import OK, USAGE, AddCommand, CommandError, positive


def add_commands(add: AddCommand) -> None:
    """Adds it to the parser of `htr`."""
    from htr_client.cli import add_server_arguments

    text = "collect pictures that the model is not sure of, from logs or folders, for a person to correct"
    command = add("review", _review, text)
    command.add_argument("pictures", nargs="*", metavar="PICTURE", help="files, folders or globs that a server reads")
    command.add_argument("--logs", action="append", default=[], metavar="DIR", help="logged requests; may be repeated")
    command.add_argument(
        "--output", required=True, metavar="DIR", help="new folder for labels.csv, pictures and a page"
    )
    command.add_argument("--below", type=float, default=0.7, metavar="C", help="confidence (default: %(default)s)")
    command.add_argument("--limit", type=positive, default=200, metavar="N", help="least sure pictures at most")
    add_server_arguments(command)


def _review(arguments: argparse.Namespace) -> int:
    from components.example_gen.dataset import DatasetError
    from components.review import review
    from htr_client import HtrError
    from htr_client.cli import client_from, expand

    if bool(arguments.logs) == bool(arguments.pictures):
        raise CommandError("Name either --logs DIR or pictures for the server to read.", USAGE)
    unread: list[str] = []
    try:
        if arguments.logs:
            doubts = review.from_logs(arguments.logs, arguments.below, unread)
            count = review.write(doubts, arguments.output, arguments.limit, unread)
        else:
            with client_from(arguments) as client:
                answers = client.transcribe_many(expand(arguments.pictures))
                doubts = review.from_answers(answers, arguments.below, unread)
                count = review.write(doubts, arguments.output, arguments.limit, unread)
    except (review.ReviewError, DatasetError, ValueError) as error:
        raise CommandError(str(error), USAGE) from error
    except (HtrError, OSError) as error:
        raise CommandError(str(error)) from error
    if unread:
        print(f"{len(unread)} could not be read; the first: {unread[0]}", file=sys.stderr)
    print(
        f"{count} pictures in {arguments.output}. Correct them in {review.PAGE_FILE} there, or in {review.LABELS_FILE}."
    )
    return OK
