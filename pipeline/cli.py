"""The command `htr`. Each subcommand imports what it needs when it runs, so that all of them start quickly."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import json
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

OK, ERROR, USAGE, NOT_BLESSED, TOO_MANY_REJECTS, DRIFT = 0, 1, 2, 3, 4, 5


class CommandError(Exception):
    """Ends the command with a readable paragraph.

    Attributes:
        code: exit code.
    """

    def __init__(self, message: str, code: int = ERROR):
        super().__init__(message)
        self.code = code


def main(argv: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: arguments; those of the process if None.

    Returns:
        Exit code: 0 done, 1 failed, 2 wrong usage or configuration, 3 not blessed, 4 too many rejected rows,
        5 drift that must not be, 130 or 143 stopped by SIGINT or SIGTERM.
    """
    from pipeline.stopping import Stopped, stoppable

    arguments = _parser().parse_args(argv)
    if not arguments.debug:
        warnings.simplefilter("ignore")
    try:
        with stoppable(3.0 if argv is None else None):
            return arguments.run(arguments)
    except Stopped as stopped:
        print("\nInterrupted.", file=sys.stderr, flush=True)
        if argv is None:
            os._exit(stopped.code)  # the process is ours, and some thread of a step would keep it for long
        return stopped.code
    except CommandError as error:
        if arguments.debug:
            raise
        print(f"\nerror: {error}", file=sys.stderr)
        return error.code
    except OSError as error:  # a full or read-only disk, no rights: system and file are named
        if arguments.debug:
            raise
        print(f"\nerror: {error}", file=sys.stderr)
        return ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "htr", description="Handwritten text recognition: from a CSV and pictures to a gated, served model."
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
        command.set_defaults(run=run)
        return command

    command = add("sample-data", _sample_data, "write a sample dataset of rendered handwriting, with a few dirty rows")
    command.add_argument("directory", metavar="DIR")
    command.add_argument("--pictures", type=int, default=3500, metavar="N")
    command.add_argument("--seed", type=int, default=7647)

    command = add("check", _check, "look at a dataset without training: rejects, leaks, doubtful labels, characters")
    _add_config_arguments(command)
    command.add_argument("--html", metavar="FILE", help="write a report with pictures to this HTML file")
    command.add_argument("--rejects", metavar="FILE", help="write the rejected rows to this CSV file")

    text = "compare pictures or logged requests with the training data of a run, or with other data: what has moved?"
    command = add("drift", _drift, text)
    _add_config_arguments(command)
    command.add_argument("--against", action="append", metavar="DIR", help="other data; may be repeated")
    command.add_argument("--run", dest="run_name", metavar="RUN", help="run to compare with (default: latest)")
    command.add_argument("--fail", action="store_true", help=f"exit code {DRIFT} when something has moved too far")
    command.add_argument("--json", action="store_true", help="print all measures as JSON")

    command = add("run", _run, "run the pipeline here: read, train, judge, push")
    _add_config_arguments(command)
    command.add_argument("--json", action="store_true", help="print one JSON line at the end")

    command = add("compile", _compile, "write the pipeline for an orchestrator, which then runs it")
    command.add_argument("target", choices=list(_COMPILERS))
    command.add_argument("output", metavar="OUTPUT", help="airflow: its folder of DAGs; kubeflow: a YAML file")
    _add_config_arguments(command)

    command = add("submit", _submit, "upload the pipeline to an orchestrator and start a run of it")
    command.add_argument("target", choices=["kubeflow"])
    command.add_argument(
        "--token-file",
        metavar="FILE",
        help="bearer token of the API (default: environment variable HTR_KUBEFLOW_TOKEN)",
    )
    _add_config_arguments(command)

    command = add("serve", _serve, "serve the pushed versions with the embedded server, for development")
    _add_config_arguments(command, data=False)
    _add_server_arguments(command)
    command.add_argument("--ui", action="store_true", help="also a page to try the model: http://localhost:8600")
    command.set_defaults(model_name=None)  # as the configuration has it

    command = add("predict", _predict, "send pictures to a server and print their text")
    _add_client_arguments(command)

    text = "collect pictures that the model is not sure of, from logs or folders, for a person to correct"
    command = add("review", _review, text)
    command.add_argument("pictures", nargs="*", metavar="PICTURE", help="files, folders or globs that a server reads")
    command.add_argument("--logs", action="append", default=[], metavar="DIR", help="logged requests; may be repeated")
    command.add_argument(
        "--output", required=True, metavar="DIR", help="new folder for labels.csv, pictures and a page"
    )
    command.add_argument("--below", type=float, default=0.7, metavar="C", help="confidence (default: %(default)s)")
    command.add_argument("--limit", type=_positive, default=200, metavar="N", help="least sure pictures at most")
    _add_client_server_arguments(command)

    text = "transcribe a folder of any size with a pushed model, without a server; do what is missing if run again"
    command = add("transcribe", _transcribe, text)
    command.add_argument("--input", required=True, metavar="DIR", help="folder with pictures, or a URL such as gs://")
    command.add_argument(
        "--output", required=True, metavar="FILE", help="texts.jsonl (or .csv) becomes texts-00000-of-00020.jsonl, ..."
    )
    command.add_argument("--model", metavar="DIR", help="a version's folder (default: newest of the workspace)")
    command.add_argument("--batch-size", type=_positive, default=64, metavar="N", help="pictures of one model call")
    command.add_argument("--shard-size", type=_positive, default=1000, metavar="N", help="pictures of one output file")
    command.add_argument("--overwrite", action="store_true", help="begin again instead of going on")
    command.add_argument("--json", action="store_true", help="print the counts as JSON")
    _add_config_arguments(command, data=False)

    command = add("versions", _versions, "list the pushed versions, or those that servers know")
    _add_config_arguments(command, data=False)
    _add_rollout_arguments(command)

    command = add("promote", _promote, "give a label to a version, once the running servers have loaded it")
    command.add_argument("version", type=int, metavar="VERSION", help="a number that `htr versions` lists")
    _add_label_argument(command, required=True, text="the label to give")
    _add_config_arguments(command, data=False)
    _add_rollout_arguments(command, move=True)

    text = "withdraw the newest version, so that servers go back to the one before; or give a label back"
    command = add("rollback", _rollback, text)
    _add_label_argument(command, required=False, text="give this label back to the version that bore it before")
    _add_config_arguments(command, data=False)
    _add_rollout_arguments(command, move=True)

    command = add("config", _print_config, "print all settings as YAML, with their meaning")
    _add_config_arguments(command, data=False)

    run_help = "as `htr runs` shows it (its beginning is enough), a pushed version, or latest"
    command = add("report", _report, "write the HTML report of a run again and print its path")
    command.add_argument("run_name", nargs="?", default="latest", metavar="RUN", help=f"{run_help} (default)")
    _add_config_arguments(command, data=False)

    command = add("runs", _list_runs, "list the runs of the workspace: verdict, CER, data, version, duration")
    _add_config_arguments(command, data=False)

    command = add("compare", _compare, "compare two runs: figures with a paired test, settings, data, pictures")
    command.add_argument("before", metavar="A", help=run_help)
    command.add_argument("after", metavar="B", help=run_help)
    _add_config_arguments(command, data=False)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a positive number")
    return value


def _add_config_arguments(command: argparse.ArgumentParser, data: bool = True) -> None:
    if data:
        command.add_argument(
            "--data", action="append", default=[], metavar="DIR", help="folder with CSV and pictures; may be repeated"
        )
    command.add_argument("--config", metavar="FILE", help="YAML file with settings (see `htr config`)")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="such as gate.max_cer=0.05")
    command.add_argument("--workspace", metavar="DIR", help="folder for everything that is made (default: workspace)")


def _add_server_arguments(command: argparse.ArgumentParser) -> None:
    from serving.server import add_arguments

    add_arguments(command)


def _add_client_arguments(command: argparse.ArgumentParser) -> None:
    from htr_client.cli import add_arguments

    add_arguments(command)


def _add_client_server_arguments(command: argparse.ArgumentParser) -> None:
    from htr_client.cli import add_server_arguments

    add_server_arguments(command)


def _add_label_argument(command: argparse.ArgumentParser, required: bool, text: str) -> None:
    from serving.rollout import LABELS

    command.add_argument("--label", required=required, choices=LABELS, help=text)


def _add_rollout_arguments(command: argparse.ArgumentParser, move: bool = False) -> None:
    from serving import rollout

    rollout.add_server_arguments(command)
    if move:
        rollout.add_move_arguments(command)


# Settings that are paths or lists of them, besides the workspace.
_PATHS = (
    ("data", "paths"), ("train", "warm_start"), ("push", "model_dir"), ("bulk", "folder"), ("beam", "setup_file"),
    ("beam", "extra_packages"),
)  # fmt: skip


def _config(arguments: argparse.Namespace) -> Any:
    from components import storage
    from pipeline.config import ConfigError, load

    settings: dict[str, Any] = {}
    if getattr(arguments, "data", None):
        settings["data"] = {"paths": [storage.absolute(path) for path in arguments.data]}
    if arguments.workspace:
        settings["workspace"] = arguments.workspace
    try:
        config = load(arguments.config, arguments.set, **settings)
    except ConfigError as error:
        raise CommandError(str(error), USAGE) from error
    # Absolute, since artifacts are found again by these paths, from wherever the next command is started, and since
    # Airflow runs each step in a folder of its own, which it deletes.
    config = config.model_copy(update={"workspace": os.path.abspath(config.workspace)})
    for name, setting in _PATHS:
        section = getattr(config, name)
        value = getattr(section, setting)
        if value:
            found = [storage.absolute(path) for path in value] if isinstance(value, list) else storage.absolute(value)
            config = config.model_copy(update={name: section.model_copy(update={setting: found})})
    return config


def _sample_data(arguments: argparse.Namespace) -> int:
    from components.sample_data import generate

    try:
        summary = generate(arguments.directory, pictures=arguments.pictures, seed=arguments.seed)
    except (FileExistsError, ValueError) as error:
        raise CommandError(str(error), USAGE) from error
    print(f"{summary.rows} rows in {summary.csv}, {len(summary.dirty_rows)} of them dirty on purpose.")
    return OK


def _check(arguments: argparse.Namespace) -> int:
    from concurrent.futures import ProcessPoolExecutor

    from rich.progress import track

    from components import storage
    from components.example_gen import dataset
    from components.report import check
    from pipeline.console import console
    from pipeline.stopping import follow_parent

    config = _config(arguments)
    try:
        tables, notes = dataset.find_tables(config.data)
        given = dataset.named_splits(tables)
        rows = [row for table in tables for row in dataset.read_rows(table)]
        with ProcessPoolExecutor(initializer=follow_parent) as pool:
            futures = pool.map(
                check.look, rows, [given] * len(rows), [config.data] * len(rows), [config.transform] * len(rows),
                chunksize=64,
            )  # fmt: skip
            results = list(track(futures, "Looking at pictures", len(rows), console=console(), transient=True))
    except dataset.DatasetError as error:
        raise CommandError(str(error), USAGE) from error
    contents = check.check(results, tables, notes, config)
    print(check.as_text(contents))
    if arguments.html:
        storage.write_text(arguments.html, check.as_page(contents))
        print(f"\nThe report with pictures is in {arguments.html}.")
    rejects = [result for result in results if isinstance(result, dataset.Reject)]
    if arguments.rejects:
        listed = io.StringIO(newline="")
        dataset.write_rejects(rejects, listed)
        storage.write_text(arguments.rejects, listed.getvalue())
        print(f"The rejected rows are in {arguments.rejects}.")
    if len(rejects) > config.data.max_rejected * len(rows):
        raise CommandError(
            f"{len(rejects)} of {len(rows)} rows would be rejected; data.max_rejected allows "
            f"{config.data.max_rejected:.1%}.", TOO_MANY_REJECTS,
        )  # fmt: skip
    return OK


def _drift(arguments: argparse.Namespace) -> int:
    from components import storage
    from components.drift import comparison, profiles
    from components.example_gen.dataset import DatasetError
    from pipeline.summary import MetadataError, NoSuchRun

    config = _config(arguments)
    if arguments.against and arguments.run_name:
        raise CommandError("--against and --run exclude each other: compare with data or with a run.", USAGE)
    try:
        after = profiles.of_folders(config.data, config.transform)
        if arguments.against:
            data = config.data.model_copy(update={"paths": [storage.absolute(path) for path in arguments.against]})
            before = profiles.of_folders(data, config.transform)
        else:
            before = profiles.of_run(config, arguments.run_name or "latest")
    except (DatasetError, NoSuchRun, profiles.NoStatistics) as error:
        raise CommandError(str(error), USAGE) from error
    except MetadataError as error:
        raise CommandError(str(error)) from error
    found = comparison.compare(before, after, config.drift.thresholds)
    print(json.dumps(found.as_json(), ensure_ascii=False) if arguments.json else found.as_text())
    if found.moved and (arguments.fail or config.drift.fail):
        raise CommandError(f"Moved too far: {', '.join(measure.name for measure in found.moved)}.", DRIFT)
    return OK


def _run(arguments: argparse.Namespace) -> int:
    from components.example_gen import dataset
    from pipeline.console import console, quiet_logs

    config = _config(arguments)
    try:
        dataset.find_tables(config.data)  # before the slow imports
    except dataset.DatasetError as error:
        raise CommandError(str(error), USAGE) from error
    started = datetime.datetime.now()
    log = os.path.join(config.workspace, "logs", f"run-{started:%Y%m%d-%H%M%S}.log")
    try:
        os.makedirs(config.workspace, exist_ok=True)
        with quiet_logs(log):
            console().print("Loading TFX and TensorFlow", style="dim")
            from pipeline import local_runner

            try:
                summary = local_runner.run(config)
                report = _write_report(summary, config)
            except Exception as error:
                raise _explained(error, config, log, local_runner.root_message) from error
    except OSError as error:
        raise CommandError(f"The workspace {config.workspace} cannot be used: {error}") from error
    except CommandError as error:
        if arguments.json:
            print(json.dumps({"blessed": False, "error": str(error), "exit_code": error.code}))
        raise
    _print_outcome(summary, config, report, log, datetime.datetime.now() - started)
    if arguments.json:
        from pipeline.summary import as_json

        print(json.dumps(as_json(summary, config.model_dir), ensure_ascii=False))
    if summary.verdict is None or not summary.verdict.blessed:
        failures = "; ".join(map(str, summary.verdict.failures)) if summary.verdict else "no verdict"
        raise CommandError(f"The model is not blessed: {failures}. Nothing was pushed.", NOT_BLESSED)
    return OK


def _compile(arguments: argparse.Namespace) -> int:
    from pipeline.config import ConfigError
    from pipeline.console import quiet_logs

    config = _config(arguments)
    with quiet_logs(os.path.join(config.workspace, "logs", "compile.log")):
        try:
            written = _COMPILERS[arguments.target](config, arguments.output)
        except ConfigError as error:
            raise CommandError(str(error), USAGE) from error
    print(written)
    return OK


def _compile_airflow(config: Any, folder: str) -> Path:
    from pipeline.airflow_runner import compile_dag

    return compile_dag(config, folder)


def _compile_kubeflow(config: Any, file: str) -> Path:
    from pipeline import kubeflow_runner

    text = kubeflow_runner.as_yaml(kubeflow_runner.compile_pipeline(config))
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"cannot write {file}: {error.strerror}", USAGE) from error
    return Path(file)


_COMPILERS: dict[str, Callable[[Any, str], Path]] = {"airflow": _compile_airflow, "kubeflow": _compile_kubeflow}


def _submit(arguments: argparse.Namespace) -> int:
    from pipeline.config import ConfigError
    from pipeline.console import quiet_logs

    config = _config(arguments)
    token = os.environ.get("HTR_KUBEFLOW_TOKEN")
    if arguments.token_file:
        try:
            token = Path(arguments.token_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise CommandError(f"cannot read the token {arguments.token_file}: {error.strerror}", USAGE) from error
    with quiet_logs(os.path.join(config.workspace, "logs", "submit.log")):
        from pipeline import kubeflow_runner

        try:
            page = kubeflow_runner.submit(config, token)
        except ConfigError as error:
            raise CommandError(str(error), USAGE) from error
        except kubeflow_runner.KubeflowError as error:
            raise CommandError(str(error)) from error
    print(page)
    return OK


def _explained(
    error: Exception, config: Any, log: str, root_message: Callable[[BaseException], tuple[str, str]]
) -> CommandError:
    """A readable error of a failed run, with its exit code."""
    import traceback

    with contextlib.suppress(OSError), open(log, "a", encoding="utf-8") as file:
        traceback.print_exception(error, file=file)
    if full := _disk_trouble(error, config):
        return CommandError(full)
    name, message = root_message(error)
    code = exit_code(name)
    known = code != ERROR or name in (
        "DataAnomalies", "WorkspaceBusy", "MetadataError", "NotServable", "FloatingPointError"
    )  # fmt: skip
    return CommandError(message if known else f"{name}: {message}\nThe log is {log}", code)


def _disk_trouble(error: BaseException | None, config: Any) -> str | None:
    """What to do about a full or read-only disk, if that is what lies below the exceptions of TFX and Beam."""
    import shutil
    import tempfile

    texts = []
    while error:
        texts.append(str(error))
        error = error.__cause__ or error.__context__
    reasons = ("No space left on device", "disk is full", "Disk quota exceeded", "File too large", "Read-only file")
    reason = next((reason for reason in reasons if any(reason in text for text in texts)), None)
    if not reason:
        return None
    folders = [config.workspace, tempfile.gettempdir()]
    folders += [config.model_dir] if os.path.isdir(config.model_dir) else []
    free = {folder: shutil.disk_usage(folder).free / 2**20 for folder in folders}
    listed = ", ".join(f"{free[folder]:,.1f} MB in {folder}" for folder in sorted(free, key=free.__getitem__))
    return (
        f"A file could not be written ({reason}). Free are {listed}. Make room there, then start the same command "
        "again: it goes on where it stopped, and nothing half-written is used."
    )


def exit_code(name: str) -> int:
    """Exit code of a run that failed with an exception of this class name."""
    codes = {
        "DatasetError": USAGE, "ConfigError": USAGE, "NotBlessed": NOT_BLESSED, "TooManyRejects": TOO_MANY_REJECTS,
        "DataDrift": DRIFT,
    }  # fmt: skip
    return codes.get(name, ERROR)


def _write_report(summary: Any, config: Any) -> Path:
    from components import storage

    path = Path(config.workspace) / "reports" / f"{summary.name.replace(':', '-')}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    storage.write_text(str(path), summary.page())
    return path


def _print_outcome(summary: Any, config: Any, report: Path, log: str, duration: datetime.timedelta) -> None:
    from pipeline.console import console

    out = console()
    accepted, rejected = summary.counts["accepted"], summary.counts["rejected"]
    out.print(f"\nPictures   {', '.join(f'{n} {split}' for split, n in accepted.items())}", markup=False)
    if rejected:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(rejected.items(), key=lambda item: -item[1]))
        out.print(
            f"Rejected   {sum(rejected.values())} rows: {reasons}\n           {config.workspace}/rejects.csv",
            markup=False,
        )
    if summary.verdict:
        m = summary.verdict.metrics
        out.print(f"CER        {m['cer']:.4f} ({m['cer_low']:.4f} to {m['cer_high']:.4f}), WER {m['wer']:.4f}")
        if summary.verdict.baseline:
            out.print(f"Before     CER {summary.verdict.baseline['cer']:.4f} (last blessed model, same pictures)")
    if summary.pushed and summary.verdict.blessed:
        out.print(f"Version    {summary.version} in {config.model_dir}{_withdrawn(summary, config)}", markup=False)
    if summary.transcribed and summary.transcribed["blessed"]:
        pictures, errors = summary.transcribed["pictures"], summary.transcribed["errors"]
        out.print(
            f"New        {pictures} pictures in {summary.transcribed['folder']}, {errors} could not be read\n"
            f"           {summary.transcriptions_folder}", markup=False,
        )  # fmt: skip
    out.print(f"Report     {report}\nLog        {log}\nTook       {str(duration).split('.')[0]}", markup=False)


def _withdrawn(summary: Any, config: Any) -> str:
    from components.pusher.versions import list_versions

    found = [version for version in list_versions(config.model_dir) if version.number == summary.version]
    return ", withdrawn by htr rollback: another is in service" if found and found[0].withdrawn else ""


def _serve(arguments: argparse.Namespace) -> int:
    from components import storage
    from components.pusher.versions import in_service, list_versions
    from serving.server import run

    config = _config(arguments)
    arguments.model_name = arguments.model_name or config.name
    if not arguments.model_base_path and not arguments.model_config_file:
        if storage.is_remote(config.model_dir):
            raise CommandError(
                f"{config.model_dir} is in a bucket, which the embedded server does not read: serve it with "
                "TensorFlow Serving, or name a folder of this machine with --model_base_path.", USAGE,
            )  # fmt: skip
        if not in_service(config.model_dir):
            if list_versions(config.model_dir):
                raise CommandError(f"All versions in {config.model_dir} are withdrawn (htr versions lists them).")
            raise CommandError(
                f"No version has been pushed to {config.model_dir} yet: htr run first. If one was pushed elsewhere, "
                "name what it was pushed with (--workspace, --config, --set name=...) or a --model_base_path."
            )
        _serve_labels(arguments, config.model_dir, config.name)
    if arguments.ui and not arguments.ui_port:
        arguments.ui_port = 8600
    return run(arguments)


def _serve_labels(arguments: argparse.Namespace, model_dir: str, name: str) -> None:
    """Once a version has been promoted, its labels say what is served; before, the newest version is."""
    from serving import rollout

    if not rollout.config_path(model_dir).exists():  # reading it takes a second, for imports
        arguments.model_base_path = model_dir
        return
    try:
        labels = rollout.Labels.read(model_dir, name)
    except rollout.RolloutError as error:
        raise CommandError(str(error), USAGE) from error
    if labels.base_path is None:
        arguments.model_base_path = model_dir
        return
    if not os.path.isdir(labels.base_path):
        raise CommandError(
            f"{labels.path} is for servers that see the models in {labels.base_path}, which is not a folder of this "
            f"machine. To serve the newest version here: --model_base_path {model_dir}", USAGE,
        )  # fmt: skip
    arguments.model_config_file = str(labels.path)
    # At the start nothing is loaded yet; later moves of a label are checked all the same.
    arguments.allow_version_labels_for_unavailable_models = True


def _predict(arguments: argparse.Namespace) -> int:
    from htr_client.cli import run

    return run(arguments)


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


def _transcribe(arguments: argparse.Namespace) -> int:
    from components import storage
    from components.pusher.versions import in_service
    from pipeline.config import ConfigError
    from pipeline.console import console, quiet_logs

    config = _config(arguments)
    model = arguments.model
    if model is None:
        found = in_service(config.model_dir)
        if not found:
            raise CommandError(f"No version has been pushed to {config.model_dir} yet. Or name one: --model.", USAGE)
        model = found[-1].path
    folder, output, model = map(storage.absolute, (arguments.input, arguments.output, model))
    log = os.path.join(config.workspace, "logs", f"transcribe-{datetime.datetime.now():%Y%m%d-%H%M%S}.log")
    started = datetime.datetime.now()
    # Workers that share this machine would otherwise each start as many threads as there are cores.
    threads = max(1, (os.cpu_count() or 1) // config.beam.workers)
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(threads))
    with quiet_logs(log):
        console().print(f"Transcribing {folder} with {model}", markup=False)
        from components.batch_transcriber import batch
        from components.batch_transcriber.shards import BatchError
        from pipeline import beam_options

        try:
            beam_options.check(config.beam)
            outcome = batch.transcribe(
                folder, output, model, beam_options.pipeline_options(config.beam), overwrite=arguments.overwrite,
                batch_size=arguments.batch_size, pictures_per_shard=arguments.shard_size,
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
        f"{outcome.pictures} pictures in {outcome.shards} file(s) like {outcome.example}"
        + (f", {before} of them done before" if before else "")
    )
    print(f"{outcome.errors} could not be read, see {outcome.errors_path}")
    print(f"Took {seconds:.0f} s")
    return OK


def _versions(arguments: argparse.Namespace) -> int:
    from components.pusher.versions import list_versions
    from serving import rollout

    config = _config(arguments)
    if arguments.server:
        return _served_versions(arguments, config.name)
    found = list_versions(config.model_dir)
    if not found:
        raise CommandError(f"No version has been pushed to {config.model_dir} yet.")
    try:
        labels = rollout.Labels.read(config.model_dir, config.name).labels
    except rollout.RolloutError as error:
        raise CommandError(str(error)) from error
    newest = max((v.number for v in found if not v.withdrawn), default=None)
    for version in found:
        notes = ["withdrawn"] if version.withdrawn else ["newest"] if version.number == newest else []
        notes += [label for label, number in labels.items() if number == version.number]
        print(f"{version.number}  {_moment(version.number)}  {version.path}  {', '.join(notes)}".rstrip())
    return OK


def _moment(number: int) -> str:
    """When a version was pushed; blank for numbers that are no Unix time, which others gave."""
    try:
        return f"{datetime.datetime.fromtimestamp(number):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return " " * len("2026-05-04 10:12:31")


def _served_versions(arguments: argparse.Namespace, name: str) -> int:
    from serving import rollout

    try:
        addresses, tls = rollout.servers_from(arguments), rollout.tls_from(arguments)
        for address in addresses:
            with rollout.Server(address, tls) as server:
                rows = server.labelled(name)
            if len(addresses) > 1:
                print(f"{address}:")
            for row in rows:
                print(f"{row.number}  {row.state:<9s}  {', '.join(row.labels):<14s}  {row.reason}".rstrip())
    except rollout.RolloutError as error:
        raise _rollout_failed(error) from error
    return OK


def _promote(arguments: argparse.Namespace) -> int:
    return _move_label(arguments, lambda rollout: rollout.promote(arguments.version, arguments.label))


def _move_label(arguments: argparse.Namespace, move: Callable[[Any], Any]) -> int:
    from serving import rollout

    config = _config(arguments)
    try:
        moved = move(
            rollout.Rollout(
                config.model_dir, config.name, rollout.servers_from(arguments), rollout.tls_from(arguments),
                arguments.base_path, arguments.timeout,
            )
        )  # fmt: skip
    except rollout.RolloutError as error:
        raise _rollout_failed(error) from error
    before = f" (before: {moved.before})" if moved.before not in (None, moved.version) else ""
    print(f"{moved.label} is version {moved.version}{before}, in {moved.path}.")
    if moved.servers:
        print(f"It answers on {', '.join(moved.servers)}.")
    else:
        print("Servers read this when they start; to move the label on running ones, name them with --server.")
    return OK


def _rollout_failed(error: Exception) -> CommandError:
    from serving.rollout import Refused

    return CommandError(str(error), USAGE if isinstance(error, Refused) else ERROR)


def _print_config(arguments: argparse.Namespace) -> int:
    from pipeline.config import as_yaml

    print(as_yaml(_config(arguments)), end="")
    return OK


def _rollback(arguments: argparse.Namespace) -> int:
    from components.pusher.versions import VersionError, roll_back

    if arguments.label:
        return _move_label(arguments, lambda rollout: rollout.roll_back(arguments.label))
    if arguments.server:
        raise CommandError("--server goes with --label: servers see by themselves what is withdrawn.", USAGE)
    try:
        withdrawn, newest = roll_back(_config(arguments).model_dir)
    except VersionError as error:
        raise CommandError(str(error)) from error
    print(f"Withdrew version {withdrawn}; version {newest} is the newest again.")
    return OK


def _report(arguments: argparse.Namespace) -> int:
    config, (run,) = _runs_of(arguments, [arguments.run_name])
    print(_write_report(run, config))
    return OK


def _runs_of(arguments: argparse.Namespace, names: list[str]) -> tuple[Any, list[Any]]:
    """Configuration, and the runs of its workspace that are called so."""
    from pipeline import summary

    config = _config(arguments)
    try:
        return config, [summary.read(config.workspace, config.name, name) for name in names]
    except summary.NoSuchRun as error:
        raise CommandError(str(error), USAGE) from error
    except summary.MetadataError as error:
        raise CommandError(str(error)) from error


def _list_runs(arguments: argparse.Namespace) -> int:
    from components.report import comparison
    from pipeline import summary

    config = _config(arguments)
    try:
        runs = summary.read_all(config.workspace, config.name)
    except summary.NoSuchRun as error:
        raise CommandError(str(error), USAGE) from error
    except summary.MetadataError as error:
        raise CommandError(str(error)) from error
    print(comparison.listing(runs))
    return OK


def _compare(arguments: argparse.Namespace) -> int:
    from components.report import comparison

    _, (before, after) = _runs_of(arguments, [arguments.before, arguments.after])
    try:
        print(comparison.compare(before, after))
    except comparison.NothingToCompare as error:
        raise CommandError(str(error), USAGE) from error
    return OK


if __name__ == "__main__":
    sys.exit(main())
