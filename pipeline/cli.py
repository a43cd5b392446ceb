"""The command `htr`. Each subcommand imports what it needs when it runs, so that all of them start quickly."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

OK, ERROR, USAGE, NOT_BLESSED, TOO_MANY_REJECTS = 0, 1, 2, 3, 4


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
        Exit code: 0 done, 1 failed, 2 wrong usage or configuration, 3 not blessed, 4 too many rejected rows.
    """
    arguments = _parser().parse_args(argv)
    if not arguments.debug:
        warnings.simplefilter("ignore")
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    except CommandError as error:
        if arguments.debug:
            raise
        print(f"\nerror: {error}", file=sys.stderr)
        return error.code


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

    command = add("check", _check, "tell what would be accepted and rejected, without training")
    _add_config_arguments(command)
    command.add_argument("--rejects", metavar="FILE", help="write the rejected rows to this CSV file")

    command = add("run", _run, "run the pipeline here: read, train, judge, push")
    _add_config_arguments(command)
    command.add_argument("--json", action="store_true", help="print one JSON line at the end")

    command = add("serve", _serve, "serve the pushed versions with the embedded server, for development")
    command.add_argument("--workspace", default="workspace", metavar="DIR")
    _add_server_arguments(command)
    command.set_defaults(model_name="htr")

    command = add("predict", _predict, "send pictures to a server and print their text")
    _add_client_arguments(command)

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

    for name, run, text in (
        ("config", _print_config, "print all settings as YAML, with their meaning"),
        ("report", _report, "write the HTML report of the latest run again and print its path"),
    ):
        command = add(name, run, text)
        _add_config_arguments(command, data=False)
    return parser


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


def _add_label_argument(command: argparse.ArgumentParser, required: bool, text: str) -> None:
    from serving.rollout import LABELS

    command.add_argument("--label", required=required, choices=LABELS, help=text)


def _add_rollout_arguments(command: argparse.ArgumentParser, move: bool = False) -> None:
    from serving import rollout

    rollout.add_server_arguments(command)
    if move:
        rollout.add_move_arguments(command)


def _config(arguments: argparse.Namespace) -> Any:
    from pipeline.config import ConfigError, load

    settings: dict[str, Any] = {}
    if getattr(arguments, "data", None):
        settings["data"] = {"paths": [os.path.abspath(path) for path in arguments.data]}
    if arguments.workspace:
        settings["workspace"] = arguments.workspace
    try:
        config = load(arguments.config, arguments.set, **settings)
    except ConfigError as error:
        raise CommandError(str(error), USAGE) from error
    # Absolute, since artifacts are found again by these paths, from wherever the next command is started.
    paths = [os.path.abspath(path) for path in config.data.paths]
    return config.model_copy(
        update={
            "workspace": os.path.abspath(config.workspace),
            "data": config.data.model_copy(update={"paths": paths}),
        }
    )


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

    from components.example_gen import dataset
    from components.transform import geometry
    from pipeline.console import console

    config = _config(arguments)
    try:
        tables, notes = dataset.find_tables(config.data)
        given = dataset.named_splits(tables)
        rows = [row for table in tables for row in dataset.read_rows(table)]
        with ProcessPoolExecutor() as pool:
            futures = pool.map(
                dataset.examine_without_image, rows, [given] * len(rows), [config.data] * len(rows),
                [config.transform] * len(rows), chunksize=64,
            )  # fmt: skip
            results = list(track(futures, "Looking at pictures", len(rows), console=console(), transient=True))
    except dataset.DatasetError as error:
        raise CommandError(str(error), USAGE) from error
    samples = [r for r in results if isinstance(r, dataset.Sample)]
    rejects = [r for r in results if isinstance(r, dataset.Reject)]
    for note in notes:
        print(f"Note: {note}")
    print(f"{len(rows)} rows in {', '.join(table.path for table in tables)}")
    by_split = Counter(sample.split for sample in samples)
    writers = {s: len({x.writer for x in samples if x.split == s and x.writer}) for s in dataset.SPLITS}
    for split in dataset.SPLITS:
        print(
            f"  {by_split[split]:7d} accepted for {split}" + (f", {writers[split]} writers" if writers[split] else "")
        )
    for reason, count in Counter(reject.reason for reject in rejects).most_common():
        example = next(reject for reject in rejects if reject.reason == reason)
        print(f"  {count:7d} rejected: {reason}, e.g. row {example.line} of {example.table}: {example.detail}")
    characters = Counter(character for sample in samples for character in sample.text)
    print(f"{len(characters)} characters: {''.join(sorted(characters))}")
    crowding = geometry.crowding([(s.width, s.height, s.text) for s in samples], config.transform)
    if crowding > geometry.CROWDED and config.transform.preset == "word":
        print(
            f"Suggestion: one label in twenty needs {crowding:.0%} or more of its picture's frames. "
            f"More frames read better: --set transform.preset=line"
        )
    if arguments.rejects:
        with open(arguments.rejects, "w", encoding="utf-8", newline="") as file:
            dataset.write_rejects(rejects, file)
        print(f"The rejected rows are in {arguments.rejects}.")
    if len(rejects) > config.data.max_rejected * len(rows):
        raise CommandError(
            f"{len(rejects)} of {len(rows)} rows would be rejected; data.max_rejected allows "
            f"{config.data.max_rejected:.1%}.", TOO_MANY_REJECTS,
        )  # fmt: skip
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
                raise _explained(error, log, local_runner.root_message) from error
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


def _explained(error: Exception, log: str, root_message: Callable[[BaseException], tuple[str, str]]) -> CommandError:
    """A readable error of a failed run, with its exit code."""
    import traceback

    with open(log, "a", encoding="utf-8") as file:
        traceback.print_exception(error, file=file)
    name, message = root_message(error)
    code = {"TooManyRejects": TOO_MANY_REJECTS, "DatasetError": USAGE}.get(name, ERROR)
    known = code != ERROR or name in ("DataAnomalies", "WorkspaceBusy", "NotServable", "FloatingPointError")
    return CommandError(message if known else f"{name}: {message}\nThe log is {log}", code)


def _write_report(summary: Any, config: Any) -> Path:
    from components.report import report

    path = Path(config.workspace) / "reports" / f"{summary.run_id[:19].replace(':', '-')}.html"
    report.write(summary, config, str(path))
    return path


def _print_outcome(summary: Any, config: Any, report: Path, log: str, duration: datetime.timedelta) -> None:
    from pipeline.console import console

    out = console()
    accepted, rejected = summary.counts["accepted"], summary.counts["rejected"]
    out.print(f"\nPictures   {', '.join(f'{n} {split}' for split, n in accepted.items())}", markup=False)
    if rejected:
        reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(rejected.items(), key=lambda item: -item[1]))
        out.print(f"Rejected   {sum(rejected.values())} rows: {reasons}\n           {config.workspace}/rejects.csv")
    if summary.verdict:
        m = summary.verdict.metrics
        out.print(f"CER        {m['cer']:.4f} ({m['cer_low']:.4f} to {m['cer_high']:.4f}), WER {m['wer']:.4f}")
        if summary.verdict.baseline:
            out.print(f"Before     CER {summary.verdict.baseline['cer']:.4f} (last blessed model, same pictures)")
    if summary.pushed and summary.verdict.blessed:
        out.print(f"Version    {summary.version} in {config.model_dir}")
    out.print(f"Report     {report}\nLog        {log}\nTook       {str(duration).split('.')[0]}")


def _serve(arguments: argparse.Namespace) -> int:
    from serving.server import run

    if not arguments.model_base_path and not arguments.model_config_file:
        model_dir = os.path.join(os.path.abspath(arguments.workspace), "serving_model", "htr")
        if not os.path.isdir(model_dir):
            raise CommandError(
                f"{model_dir} does not exist: push a model first (htr run), or name another "
                f"--workspace or --model_base_path.", USAGE,
            )  # fmt: skip
        _serve_labels(arguments, model_dir)
    return run(arguments)


def _serve_labels(arguments: argparse.Namespace, model_dir: str) -> None:
    """Once a version has been promoted, its labels say what is served; before, the newest version is."""
    from serving import rollout

    try:
        labels = rollout.Labels.read(model_dir, "htr")
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
        moment = datetime.datetime.fromtimestamp(version.number)
        print(f"{version.number}  {moment:%Y-%m-%d %H:%M:%S}  {version.path}  {', '.join(notes)}".rstrip())
    return OK


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
    from pipeline.console import quiet_logs

    config = _config(arguments)
    if not os.path.isdir(config.workspace):
        raise CommandError(f"{config.workspace} does not exist.", USAGE)
    with quiet_logs(os.path.join(config.workspace, "logs", "report.log")):
        from pipeline import summary

        try:
            path = _write_report(summary.read(config.workspace, config.name), config)
        except FileNotFoundError as error:
            raise CommandError(str(error), USAGE) from error
    print(path)
    return OK


if __name__ == "__main__":
    sys.exit(main())
