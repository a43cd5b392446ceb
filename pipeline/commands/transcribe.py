"""The command `transcribe`: a folder of any size, without a server."""

from __future__ import annotations

import argparse
import datetime
import json
import os
from dataclasses import asdict

from pipeline.commands.common import AddCommand, CommandError, add_config_arguments, positive, read_config
from pipeline.exit_codes import OK, USAGE


def add_commands(add: AddCommand) -> None:
    """Adds it to the parser of `htr`."""
    text = "transcribe a folder of any size with a pushed model, without a server; do what is missing if run again"
    command = add("transcribe", _transcribe, text)
    command.add_argument("--input", required=True, metavar="DIR", help="folder with images, or a URL such as gs://")
    command.add_argument(
        "--output", required=True, metavar="FILE", help="texts.jsonl (or .csv) becomes texts-00000-of-00020.jsonl, ..."
    )
    command.add_argument("--model", metavar="DIR", help="a version's folder (default: newest of the workspace)")
    command.add_argument("--batch-size", type=positive, default=64, metavar="N", help="images of one model call")
    command.add_argument("--shard-size", type=positive, default=1000, metavar="N", help="images of one output file")
    command.add_argument("--decoder", choices=["best-path"], help="best-path: leave the model's language model out")
    command.add_argument("--overwrite", action="store_true", help="begin again instead of going on")
    command.add_argument("--json", action="store_true", help="print the counts as JSON")
    add_config_arguments(command, data=False)


def _transcribe(arguments: argparse.Namespace) -> int:
    from components.common import storage
    from components.common.console import announced, console, quiet_logs
    from components.common.settings import ConfigError
    from components.pusher.versions import in_service

    config = read_config(arguments)
    model = arguments.model
    if model is None:
        found = in_service(config.model_dir)
        if not found:
            raise CommandError(f"No version has been pushed to {config.model_dir} yet. Or name one: --model.", USAGE)
        model = found[-1].path
    folder, output, model = map(storage.absolute, (arguments.input, arguments.output, model))
    for what, place in (("--input", folder), ("--model", model)):  # before the slow imports
        if not (storage.is_remote(place) or os.path.isdir(place)):
            raise CommandError(f"{what}: {place} does not exist or is not a folder.", USAGE)
    log = os.path.join(config.workspace, "logs", f"transcribe-{datetime.datetime.now():%Y%m%d-%H%M%S}.log")
    started = datetime.datetime.now()
    # Workers that share this machine would otherwise each start as many threads as there are cores.
    threads = max(1, (os.cpu_count() or 1) // config.beam.workers)
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(threads))
    with quiet_logs(log):
        console().print(f"Transcribing {folder} with {model}", markup=False)
        with announced("Loading Apache Beam and TensorFlow"):
            from components.batch_transcriber import batch
            from components.batch_transcriber.shards import BatchError, written
            from pipeline import beam_options

        try:
            beam_options.check(config.beam)
            with announced(lambda: written(output) or "Looking for images", after=10):
                outcome = batch.transcribe(
                    folder, output, model, beam_options.pipeline_options(config.beam), overwrite=arguments.overwrite,
                    batch_size=arguments.batch_size, pictures_per_shard=arguments.shard_size,
                    best_path=arguments.decoder == "best-path",
                )  # fmt: skip
        except (BatchError, ConfigError) as error:
            raise CommandError(str(error), USAGE) from error
        except Exception as error:
            raise CommandError(
                f"{type(error).__name__}: {error}\nThe same command goes on where this one stopped. The log is {log}"
            ) from error
    seconds = (datetime.datetime.now() - started).total_seconds()
    if arguments.json:
        print(json.dumps({**asdict(outcome), "seconds": round(seconds, 1)}))
        return OK
    before = outcome.pictures - outcome.new
    print(
        f"{outcome.pictures} images in {outcome.shards} file(s) like {outcome.example}"
        + (f", {before} of them done before" if before else "")
    )
    print(f"{outcome.errors} could not be read, see {outcome.errors_path}")
    print(f"Took {seconds:.0f} s")
    return OK
