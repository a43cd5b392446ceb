"""The command `transcribe`: a folder of any size, without a server."""

from __future__ import annotations

import argparse
import datetime
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from components.common.words import counted
from htr_client.cores import usable_cores
from pipeline.commands.common import (
    MODELS,
    AddCommand,
    CommandError,
    add_config_arguments,
    logged,
    read_config,
    resumable,
)
from pipeline.commands.models import add_model_arguments, chosen_model, finding_a_model, tell_of_words
from pipeline.commands.options import positive
from pipeline.exit_codes import ERROR, OK, USAGE
from serving.precision import has_bfloat16

if TYPE_CHECKING:
    from components.batch_transcriber.batch import Outcome


def add_commands(add: AddCommand) -> None:
    """Adds it to the parser of `htr`."""
    from htr_client.cli import KINDS, decoder
    from htr_client.files import PAGE_FORMATS

    text = (
        "transcribe a folder of any size, of lines or pages, without a server; if run again, it continues where it "
        "stopped"
    )
    command = add("transcribe", _transcribe, text, "htr transcribe --input lines --output texts.jsonl")
    command.add_argument("--input", required=True, metavar="DIR", help="folder with images, also s3://, gs:// or az://")
    command.add_argument(
        "--output", required=True, metavar="PATH",
        help="texts.jsonl (or .csv) becomes texts-00000-of-00020.jsonl, ...; with --format a folder for a file of each "
        "page",
    )  # fmt: skip
    command.add_argument(
        "--format", choices=PAGE_FORMATS, help="format of the files of pages: alto (4), page (PAGE XML 2019), ..."
    )
    command.add_argument(
        "--kind", choices=KINDS,
        help="what the images show: a line or word each, or a page whose lines are found; auto looks (default: line, "
        "with a folder as output page)",
    )  # fmt: skip
    add_model_arguments(command)
    command.add_argument(
        "--batch-size", type=positive, default=64, metavar="N", help="images of one model call (default: %(default)s)"
    )
    command.add_argument(
        "--shard-size", type=positive, metavar="N", help="images of one output file (default: 1000, of pages 50)"
    )
    command.add_argument(
        "--decoder",
        type=decoder,
        choices=("best-path",),
        help="decode without the version's language model (default: with it)",
    )
    command.add_argument(
        "--lm", metavar="FILE",
        help="texts such as those of the images, one a line, to learn a language model from, beside the version's",
    )  # fmt: skip
    command.add_argument(
        "--bfloat16", action="store_true",
        help="compute in bfloat16 where the processor has it (AVX512_BF16, AMX): faster; a text differs now and then",
    )  # fmt: skip
    command.add_argument(
        "--overwrite",
        action="store_true",
        help="begin again instead of going on; files of pages that were changed stay",
    )
    command.add_argument("--json", action="store_true", help="print the counts as JSON")
    add_config_arguments(command, None, MODELS)


def _transcribe(arguments: argparse.Namespace) -> int:
    from components.batch_transcriber.output import BatchError, table_format
    from components.common import storage
    from components.common.console import announced, console
    from components.common.folders import nearest
    from components.common.settings import ConfigError
    from pipeline import local_models

    config = read_config(arguments)
    kind = arguments.kind or ("line" if arguments.output.endswith((".jsonl", ".csv")) else "page")
    if arguments.line_finder and kind == "line":
        raise CommandError("--line-finder is for pages, and images of lines are none: add --kind page or auto.", USAGE)
    folder, output = map(storage.absolute, (arguments.input, arguments.output))
    try:  # before the slow imports
        is_folder = storage.is_dir(folder)
    except OSError as error:
        raise CommandError(f"--input: {error}", USAGE if isinstance(error, PermissionError) else ERROR) from error
    if not is_folder:
        raise CommandError(f"--input: {folder} does not exist or is not a folder.", USAGE)
    texts = storage.absolute(arguments.lm) if arguments.lm else None
    if texts and arguments.decoder == "best-path":
        raise CommandError("--decoder best-path leaves language models out: --lm would do nothing.", USAGE)
    try:
        table_format(output, kind, arguments.format)
    except BatchError as error:
        raise CommandError(str(error), USAGE) from error
    try:
        if storage.is_remote(output):
            storage.check_writable(os.path.dirname(output))
        elif not os.path.lexists(output):
            storage.check_writable(nearest(output))
    except OSError as error:
        raise CommandError(f"--output {output} cannot be written: {error.strerror or error}.", USAGE) from error
    model = chosen_model(config, arguments)
    if kind == "page":
        tell_of_words(model)
    if model.is_base and config.beam.runner != "local":
        raise CommandError(
            f"The base model lies in a cache of this machine, where workers of beam.runner={config.beam.runner} do not "
            f"see it: copy {model.path} to a place that they see, and name that with --model.", USAGE,
        )  # fmt: skip
    if arguments.bfloat16 and not has_bfloat16() and config.beam.runner == "local":
        raise CommandError("--bfloat16: this machine's processor has neither AVX512_BF16 nor AMX.", USAGE)
    with finding_a_model("--line-finder"):
        finder = local_models.pushed_line_finder(config, arguments.line_finder) if kind != "line" else None
    log = os.path.join(config.workspace, "logs", f"transcribe-{datetime.datetime.now():%Y%m%d-%H%M%S}.log")
    started = datetime.datetime.now()
    # Workers that share this machine would otherwise each start as many threads as there are cores.
    threads = max(1, usable_cores() // config.beam.workers)
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(threads))
    with logged(log):
        console().print(f"Transcribing {folder}. {model.note}", markup=False)
        with announced("Loading Apache Beam and TensorFlow"):
            from components.batch_transcriber import batch
            from components.batch_transcriber.shards import written
            from components.batch_transcriber.transcribing import Transcriber
            from components.recogniser.decoders import DEFAULT
            from pipeline.beam import options as beam_options

        with resumable(log, BatchError, ConfigError):
            beam_options.check(config.beam)
            with announced(lambda: written(output) or "Looking for images", after=10):
                transcriber = Transcriber(
                    model.path, kind, finder, arguments.batch_size, (arguments.decoder or DEFAULT).replace("-", "_"),
                    bfloat16=arguments.bfloat16, max_pixels=config.data.max_pixels, texts=texts,
                )  # fmt: skip
                outcome = batch.transcribe(
                    folder, output, transcriber, beam_options.pipeline_options(config.beam),
                    overwrite=arguments.overwrite, images_per_shard=arguments.shard_size, format_=arguments.format,
                )  # fmt: skip
    seconds = (datetime.datetime.now() - started).total_seconds()
    if arguments.json:
        counts = {**asdict(outcome), "pictures": outcome.images}  # the name of `images` in version 0.1
        print(json.dumps({**counts, "seconds": round(seconds, 1)}))
        return OK
    print(*_in_words(outcome, output, kind), f"Took {seconds:.0f} s", sep="\n")
    return OK


def _in_words(outcome: Outcome, output: str, kind: str) -> Iterator[str]:
    """What a batch has come to, as lines for people."""
    from components.batch_transcriber import suspects

    where = (
        outcome.example if outcome.example == output else f"{counted(outcome.shards, 'file')} like {outcome.example}"
    )
    images = counted(outcome.images, "image")
    if outcome.errors:
        others = " and ".join(f"{count} {ending}" for ending, count in outcome.other_formats.items())
        advice = f", of them {others}: convert these to JPEG or PNG, a page each" if others else ""
        yield (
            f"{outcome.images - outcome.errors} of {images} in {where}; {outcome.errors} could not be read, see "
            f"{outcome.errors_path}{advice}"
        )
    else:
        yield f"{images} in {where}"
    if kind != "line":
        lacking = "".join(f", {count} with {reason.replace('_', ' ')}" for reason, count in outcome.incomplete.items())
        see = f", see {outcome.errors_path}" if lacking else ""
        yield f"{counted(outcome.pages, 'page')} with {counted(outcome.lines, 'line')}{lacking}{see}"
    yield from suspects.told(outcome.suspicions, "--kind auto")
    if outcome.kept:
        yield f"Kept as they are: {counted(outcome.kept, 'file')} that somebody has changed, see {outcome.errors_path}"
    if outcome.earlier:
        unread = counted(outcome.earlier, "image")
        yield f"Cannot be read now: {unread} whose earlier texts stay, see {outcome.errors_path}"
    if outcome.deleted:
        yield f"Deleted: {counted(outcome.deleted, 'file')} whose images have gone or are damaged now"
    if before := outcome.images - outcome.new:
        yield f"Done by an earlier run: {counted(before, 'image')}"
    if outcome.hidden:
        yield f"Left out: {counted(outcome.hidden, 'hidden file')}"
    if outcome.others:
        yield f"Left out: {counted(outcome.others, 'other file')}, such as {outcome.other_example}"
