"""The command `run`: the whole pipeline on this machine, and what it says at the end."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from components.common.words import counted
from pipeline.commands.common import (
    DATA_OR_PAGES,
    AddCommand,
    CommandError,
    add_config_arguments,
    add_task_argument,
    read_config,
)
from pipeline.exit_codes import NOT_BLESSED, OK, exit_code, is_for_people, root_message
from pipeline.tasks import task_of

if TYPE_CHECKING:
    from components.report.summary import RunSummary
    from pipeline.config import Config


def add_commands(add: AddCommand) -> None:
    """Adds it to the parser of `htr`."""
    command = add("run", _run, "run the pipeline here: read, train, evaluate, push", "htr run --data names")
    add_task_argument(command)
    add_config_arguments(command, DATA_OR_PAGES)
    command.add_argument("--json", action="store_true", help="print one JSON line at the end")


def _run(arguments: argparse.Namespace) -> int:
    started = datetime.datetime.now()
    try:
        config = read_config(arguments)
        _check(config)  # before the slow imports
        log = os.path.join(config.workspace, "logs", f"run-{started:%Y%m%d-%H%M%S}.log")
        summary, report = _run_pipeline(config, log)
    except CommandError as error:
        if arguments.json:
            print(json.dumps({"blessed": False, "error": str(error), "exit_code": error.code}))
        raise
    task = task_of(config)
    _print_outcome(summary, config, report, log, datetime.datetime.now() - started)
    if arguments.json:
        print(json.dumps(task.as_json(summary, config), ensure_ascii=False))
    if not (summary.metrics and summary.metrics["blessed"]):
        raise CommandError(task.refusal(summary), NOT_BLESSED)
    return OK


def _check(config: Config) -> None:
    """Checks settings and data before the first step.

    Raises:
        CommandError: A run cannot work with them.
    """
    from components.common.console import console
    from components.common.settings import ConfigError
    from components.example_gen.table import DatasetError
    from pipeline import preflight

    if names := preflight.unused(config):
        console().print(f"Warning: task={config.task} does not use {', '.join(names)}", markup=False)
    for sentence in preflight.without_effect(config):
        console().print(f"Warning: {sentence}", markup=False)
    try:
        task_of(config).check(config)
    except (DatasetError, ConfigError) as error:
        raise CommandError(str(error), exit_code(type(error).__name__)) from error
    except OSError as error:
        if told := _disk_trouble(error, config):
            raise CommandError(told) from error
        raise


def _run_pipeline(config: Config, log: str) -> tuple[RunSummary, Path]:
    """Runs all steps; returns what they did, and the file of the report.

    Raises:
        CommandError: A step has failed, or the workspace cannot be used.
    """
    from components.common.console import announced, console, quiet_logs

    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(config.workspace, exist_ok=True)
            stack.enter_context(quiet_logs(log))
        except OSError as error:
            told = _disk_trouble(error, config)
            raise CommandError(told or f"The workspace {config.workspace} cannot be used: {error}") from error
        console().print("Loading TFX and TensorFlow", style="dim")
        with announced("Still loading", after=10):
            from pipeline.runners import local_runner

        try:
            summary = local_runner.run(config)
            return summary, task_of(config).write_report(summary, config)
        except Exception as error:
            raise _explained(error, config, log) from error


def _explained(error: Exception, config: Config, log: str) -> CommandError:
    """A readable error of a failed run, with its exit code."""
    import traceback

    # Messages may hold file names that are not UTF-8.
    with contextlib.suppress(OSError), open(log, "a", encoding="utf-8", errors="backslashreplace") as file:
        traceback.print_exception(error, file=file)
    if full := _disk_trouble(error, config):
        return CommandError(full)
    name, message = root_message(error)
    return CommandError(message if is_for_people(name) else f"{name}: {message}\nThe log is {log}", exit_code(name))


def _disk_trouble(error: BaseException | None, config: Config) -> str | None:
    """What to do about a full or read-only disk, if that is what lies below the exceptions of TFX and Beam."""
    import tempfile

    from components.base_model.packing import cache_folder
    from components.common import storage
    from components.common.folders import free_space

    texts = []
    while error:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    reasons = (
        "No space left on device",
        "disk is full",
        "Disk quota exceeded",
        "File too large",
        "Read-only file system",
    )
    reason = next((reason for reason in reasons if any(reason in text for text in texts)), None)
    if not reason:
        return None
    folders = [config.workspace, tempfile.gettempdir(), str(cache_folder()), config.servable[1]]
    free = {folder: free_space(folder) / 2**20 for folder in folders if not storage.is_remote(folder)}
    listed = ", ".join(f"{free[folder]:,.1f} MB in {folder}" for folder in sorted(free, key=free.__getitem__))
    return (
        f"A file could not be written ({reason}). Free are {listed}. Make room there, then start the same command "
        "again: it goes on where it stopped, and nothing half-written is used."
    )


def _print_outcome(summary: RunSummary, config: Config, report: Path, log: str, duration: datetime.timedelta) -> None:
    from components.batch_transcriber import suspects
    from components.common.console import console
    from components.pusher.publishing import why_withheld

    out, task = console(), task_of(config)
    accepted, rejected = summary.counts["accepted"], summary.counts["rejected"]
    out.print(f"\n{task.samples:11s}{', '.join(f'{n} {split}' for split, n in accepted.items())}", markup=False)
    if rejected:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(rejected.items(), key=lambda item: -item[1]))
        out.print(
            f"Rejected   {counted(sum(rejected.values()), task.row)}: {reasons}\n"
            f"           {config.workspace}/{task.rejects_file}",
            markup=False,
        )
    for kind, sentences in (("Warning", summary.counts.get("problems", [])), ("Note", summary.counts["notes"])):
        for sentence in sentences:
            out.print(f"{kind:10s} {sentence}", markup=False)
    for line in task.figures(summary):
        out.print(line, markup=False)
    if summary.pushed and summary.metrics and summary.metrics["blessed"]:
        out.print(f"Version    {summary.version} in {config.servable[1]}", markup=False)
    elif summary.withdrawn is not None:
        out.print(f"Version    none: {why_withheld(summary.withdrawn, config.options)}", markup=False)
    if summary.transcribed and summary.transcribed["blessed"]:
        images, errors = summary.transcribed["images"], summary.transcribed["errors"]
        lines = f" with {counted(summary.transcribed['lines'], 'line')}" if "lines" in summary.transcribed else ""
        out.print(
            f"New        {counted(images, 'image')}{lines} in {summary.transcribed['folder']}, {errors} could not be "
            "read\n"
            f"           {summary.transcriptions_folder}", markup=False,
        )  # fmt: skip
        for sentence in suspects.told(summary.transcribed.get("suspicions", {}), "bulk.kind=auto"):
            out.print(f"           {sentence}", markup=False)
    out.print(f"Report     {report}\nLog        {log}\nTook       {str(duration).split('.')[0]}", markup=False)
