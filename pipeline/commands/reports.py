"""Commands about past runs: `report`, `runs`, `compare`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pipeline.commands.common import (
    RUNS,
    AddCommand,
    CommandError,
    add_config_arguments,
    add_task_argument,
    read_config,
    reading_runs,
)
from pipeline.commands.options import add_prometheus_argument, write_output
from pipeline.exit_codes import OK, USAGE
from pipeline.tasks import task_of
from pipeline.tasks.task import NoReport

if TYPE_CHECKING:
    from components.report.summary import RunSummary
    from pipeline.config import Config


def add_commands(add: AddCommand) -> None:
    """Adds them to the parser of `htr`."""
    run_help = "as `htr runs` shows it (its beginning is enough), a pushed version, or latest"
    command = add("report", _report, "write the HTML report of a run again and print its path", "htr report latest")
    command.add_argument("run_name", nargs="?", default="latest", metavar="RUN", help=f"{run_help} (default)")
    add_task_argument(command)
    add_config_arguments(command, None, RUNS)

    command = add(
        "runs", _list_runs, "list the runs of the workspace: verdict, CER, data, version, duration", "htr runs"
    )
    add_task_argument(command)
    add_config_arguments(command, None, RUNS)
    add_prometheus_argument(command)

    command = add(
        "compare",
        _compare,
        "compare two runs: figures with a paired test, settings, data, images",
        "htr compare 2026-05-04 latest",
    )
    command.add_argument("before", metavar="A", help=run_help)
    command.add_argument("after", metavar="B", help=run_help)
    add_task_argument(command)
    add_config_arguments(command, None, RUNS)


def _report(arguments: argparse.Namespace) -> int:
    config, (run,) = _runs_of(arguments, [arguments.run_name])
    try:
        print(task_of(config).write_report(run, config))
    except NoReport as error:
        raise CommandError(f"{error} {_where_runs_are_listed(config)}") from error
    return OK


def _where_runs_are_listed(config: Config) -> str:
    return f"`htr runs{config.options}` lists the runs."


def _runs_of(arguments: argparse.Namespace, names: list[str]) -> tuple[Config, list[RunSummary]]:
    """Configuration, and the runs of its workspace that are called so."""
    from components.report import summary

    config = read_config(arguments)
    with reading_runs():
        return config, [summary.read(config.workspace, config.servable[0], name) for name in names]


def _list_runs(arguments: argparse.Namespace) -> int:
    from components.report import prometheus, summary

    config = read_config(arguments)
    with reading_runs():
        runs = summary.read_all(config.workspace, config.servable[0])
    print(task_of(config).listing(runs))
    if arguments.prometheus:
        page = prometheus.runs_page(runs[: prometheus.NEWEST], config.servable[0], config.task)
        write_output("--prometheus", arguments.prometheus, page)
    return OK


def _compare(arguments: argparse.Namespace) -> int:
    from components.report.side_by_side import NothingToCompare

    config, (before, after) = _runs_of(arguments, [arguments.before, arguments.after])
    try:
        print(task_of(config).compare(before, after))
    except NothingToCompare as error:
        raise CommandError(f"{error} {_where_runs_are_listed(config)}", USAGE) from error
    return OK
