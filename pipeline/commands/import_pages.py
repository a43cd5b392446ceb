"""The command `import`: a dataset of lines from pages with PAGE XML or ALTO."""

from __future__ import annotations

import argparse
import datetime
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from components.common.words import counted
from pipeline.commands.common import AddCommand, CommandError, add_config_arguments, logged, read_config, resumable
from pipeline.exit_codes import OK, USAGE

if TYPE_CHECKING:
    from components.tools.page_import.importing import Outcome


def add_commands(add: AddCommand) -> None:
    """Adds it to the parser of `htr`."""
    text = "make a dataset of lines from pages with PAGE XML or ALTO; if run again, it continues where it stopped"
    command = add("import", _import, text, "htr import scans --output lines --writer folder")
    command.add_argument("folders", nargs="+", metavar="DIR", help="folder with XML files and images, at any depth")
    command.add_argument("--output", required=True, metavar="DATASET", help="new folder for labels.csv and images/")
    command.add_argument(
        "--writer",
        default="auto",
        metavar="RULE",
        help="what goes into the column writer, which keeps splits apart: auto (default: the document that the file "
        "names, else the page), folder, or a regular expression for page names such as '(.*)-[0-9]+$', whose group is "
        "the writer",
    )
    command.add_argument("--overwrite", action="store_true", help="begin again instead of going on")
    command.add_argument("--json", action="store_true", help="print the counts as JSON")
    add_config_arguments(command, None)


def _import(arguments: argparse.Namespace) -> int:
    from components.common import storage
    from components.common.console import announced, console
    from components.common.settings import ConfigError
    from components.pages.files import ImportProblem

    config = read_config(arguments)
    folders = [storage.absolute(folder) for folder in arguments.folders]
    for folder in folders:  # before the slow imports
        if not (storage.is_remote(folder) or os.path.isdir(folder)):
            raise CommandError(f"{folder} does not exist or is no folder.", USAGE)
    if storage.is_remote(arguments.output):
        raise CommandError("--output is a folder of this machine; copy the finished dataset to a bucket.", USAGE)
    output = os.path.abspath(arguments.output)
    if any(storage.is_inside(output, folder) for folder in folders):
        raise CommandError(f"--output {output} lies in a folder that is read. Name one outside of it.", USAGE)
    started = datetime.datetime.now()
    log = os.path.join(config.workspace, "logs", f"import-{started:%Y%m%d-%H%M%S}.log")
    with logged(log):
        with announced("Loading Apache Beam"):
            from components.tools.page_import.importing import LOST_IMAGES, done_pages, import_pages
            from pipeline.beam import options as beam_options

        total = 0

        def begin(pages: int) -> None:
            nonlocal total
            total = pages
            console().print(f"Importing {counted(pages, 'page')}.", markup=False)

        with resumable(log, ImportProblem, ConfigError):
            beam_options.check(config.beam)
            with announced(
                lambda: f"{done_pages(output)} of {counted(total, 'page')}" if total else "Looking for pages"
            ):
                outcome = import_pages(
                    folders, output, beam_options.pipeline_options(config.beam), writer=arguments.writer,
                    max_pixels=config.data.max_pixels, allow_outside=config.data.allow_outside,
                    overwrite=arguments.overwrite, started=begin,
                )  # fmt: skip
    seconds = (datetime.datetime.now() - started).total_seconds()
    if arguments.json:
        print(json.dumps({**asdict(outcome), "seconds": round(seconds, 1)}))
    else:
        took = f"Took {seconds:.0f} s. Next: htr check --data {arguments.output} --set transform.preset=line"
        print(*_in_words(outcome), took, sep="\n")
    if lost := outcome.left_out_pages.get(LOST_IMAGES):
        raise CommandError(
            f"Images of lines of {counted(lost, 'page')} are gone, which something else has deleted meanwhile; "
            f"{outcome.left_out_table} names the pages. The same command cuts them again."
        )
    if not outcome.lines:
        raise CommandError(f"No line was imported. {outcome.left_out_table} says why.")
    return OK


def _in_words(outcome: Outcome) -> Iterator[str]:
    """What an import has come to, as lines for people."""
    before = outcome.pages - outcome.new
    yield (
        f"{counted(outcome.lines, 'line')} of {counted(outcome.pages, 'page')} in {outcome.labels}"
        + (f", {counted(before, 'page')} of them done before" if before else "")
    )
    if outcome.removed:
        yield f"Removed: the lines of {counted(outcome.removed, 'page')} whose XML file is gone"
    for what, reasons in (("pages", outcome.left_out_pages), ("lines", outcome.left_out)):
        if reasons:
            counts = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
            yield f"Left out {what}: {counts}; see {outcome.left_out_table}"
    if outcome.elsewhere:
        yield (
            f"Pages whose image was found by its name in another folder: {outcome.elsewhere}, such as "
            f"{outcome.elsewhere_example}"
        )
    if outcome.with_confidence:
        yield (
            f"Lines with a confidence, as a model writes it: {outcome.with_confidence} on "
            f"{counted(outcome.with_confidence_pages, 'page')}, such as {outcome.with_confidence_example}. A model "
            "that learns from texts which nobody has corrected is evaluated on them, too: leave those out."
        )
    if outcome.unnamed:
        yield f"Images that no page names: {outcome.unnamed}, such as {outcome.unnamed_example}"
    if outcome.without_document:
        yield (
            f"Pages that name neither writer nor document, so that each counts as a writer of its own: "
            f"{outcome.without_document}. If several are of one writer, say so with --writer folder or --writer "
            "PATTERN."
        )
