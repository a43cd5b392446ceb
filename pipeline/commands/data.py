"""Commands about data, without training: `sample-data`, `check`, `drift`."""

from __future__ import annotations

import argparse
import json
import sys

from components.common.words import counted
from pipeline.commands.common import RUNS, AddCommand, CommandError, add_config_arguments, read_config, reading_runs
from pipeline.commands.options import add_prometheus_argument, add_since_argument, check_can_be_written, write_output
from pipeline.exit_codes import DRIFT, OK, TOO_MANY_REJECTS, USAGE, exit_code


def add_commands(add: AddCommand) -> None:
    """Adds them to the parser of `htr`."""
    command = add(
        "sample-data",
        _sample_data,
        "write a sample dataset of rendered handwriting, with a few dirty rows",
        "htr sample-data names",
    )
    command.add_argument("directory", metavar="DIR", help="new folder for labels and images")
    command.add_argument(
        "--images", type=int, default=3500, metavar="N", help="images to render (default: %(default)s)"
    )
    # The name in version 0.1.
    command.add_argument("--pictures", dest="images", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    command.add_argument(
        "--seed", type=int, default=7647, metavar="N", help="seed of the generator (default: %(default)s)"
    )

    command = add(
        "check",
        _check,
        "look at a dataset without training: rejects, leaks, suspect labels, characters",
        "htr check --data names --html check.html",
    )
    add_config_arguments(command)
    command.add_argument("--html", metavar="FILE", help="write a report with images to this HTML file")
    command.add_argument("--rejects", metavar="FILE", help="write the rejected rows to this CSV file")

    text = "compare images or logged requests with the training data of a run, or with other data: what has drifted?"
    command = add("drift", _drift, text, "htr drift --data new-scans --against names")
    add_config_arguments(command, "folder with the new data or logs; may be repeated", RUNS)
    command.add_argument(
        "--against", action="append", metavar="DIR", help="the data to compare with, instead of a run; may be repeated"
    )
    command.add_argument("--run", dest="run_name", metavar="RUN", help="run to compare with (default: latest)")
    add_since_argument(command, "--data")
    command.add_argument("--fail", action="store_true", help=f"exit code {DRIFT} when something has drifted too far")
    command.add_argument("--json", action="store_true", help="print all measures as JSON")
    add_prometheus_argument(command)


def _sample_data(arguments: argparse.Namespace) -> int:
    from components.common.console import announced
    from components.tools.sample_data import generate

    try:
        with announced(f"Rendering {counted(arguments.images, 'image')}"):
            summary = generate(arguments.directory, images=arguments.images, seed=arguments.seed)
    except (FileExistsError, ValueError) as error:
        raise CommandError(str(error), USAGE) from error
    print(f"{counted(summary.rows, 'row')} in {summary.csv}, {len(summary.dirty_rows)} of them dirty on purpose.")
    return OK


def _check(arguments: argparse.Namespace) -> int:
    from collections import Counter
    from itertools import chain, repeat

    from components.common.console import announced
    from components.common.settings import ConfigError
    from components.common.workers import worker_pool
    from components.example_gen.folders import find
    from components.example_gen.plan import make_plan
    from components.example_gen.rejects import NO_ROWS, Reject, as_csv, faults
    from components.example_gen.table import ROWS, DatasetError
    from components.tools.data_check import check
    from components.tools.data_check.look import Seen, look
    from pipeline import preflight

    config = read_config(arguments)
    for option, file in (("--html", arguments.html), ("--rejects", arguments.rejects)):
        if file:
            check_can_be_written(option, file)
    try:
        tables, notes, passed_over = find(config.data)
        plan = make_plan(tables, config.data, passed_over)
        preflight.check_run(config, tables, plan)
        rows = [row for table in tables for row in plan.read(table)]
        with worker_pool() as pool:
            together = [rows[i : i + ROWS] for i in range(0, len(rows), ROWS)]
            futures = pool.map(look, together, repeat(plan.splits), repeat(config.data), repeat(config.transform))
            results: list[Seen | Reject] = []
            with announced(lambda: f"Looking at images: {len(results)} of {len(rows)}"):
                for result in chain.from_iterable(futures):
                    results.append(result)
    except (DatasetError, ConfigError) as error:
        raise CommandError(str(error), exit_code(type(error).__name__)) from error
    contents = check.check(results, tables, notes, plan, config)
    print(check.as_text(contents, shown=bool(arguments.html)))
    if arguments.html:
        write_output("--html", arguments.html, check.as_page(contents))
        print(f"\nThe report with images is in {arguments.html}.")
    rejects = [result for result in results if isinstance(result, Reject)]
    if arguments.rejects:
        write_output("--rejects", arguments.rejects, as_csv(rejects))
        print(f"The rejected rows are in {arguments.rejects}.")
    if not rows:
        raise CommandError(NO_ROWS, USAGE)
    at_fault = sum(faults(Counter(reject.reason for reject in rejects)).values())
    if at_fault > config.data.max_rejected * len(rows):
        raise CommandError(
            f"{at_fault} of {counted(len(rows), 'row')} would be rejected; data.max_rejected allows "
            f"{config.data.max_rejected:.1%}.", TOO_MANY_REJECTS,
        )  # fmt: skip
    empty = [split for split, found in contents["splits"].items() if not found["samples"]]
    if empty:
        raise CommandError(f"No image falls into {' and '.join(empty)}: the run would stop.", USAGE)
    return OK


def _drift(arguments: argparse.Namespace) -> int:
    from components.common import storage
    from components.common.console import announced
    from components.example_gen.folders import find_tables
    from components.example_gen.table import DatasetError
    from components.tools.drift import comparison, profiles
    from components.tools.log_times import time_column

    config = read_config(arguments)
    if arguments.against and arguments.run_name:
        raise CommandError("--against and --run exclude each other: compare with data or with a run.", USAGE)
    try:
        for table in find_tables(config.data)[0]:  # a wrong folder is told before anything is measured
            if arguments.since:
                time_column(table)
        with announced("Reading and measuring images"), reading_runs():
            if arguments.against:
                data = config.data.model_copy(update={"paths": [storage.absolute(path) for path in arguments.against]})
                before = profiles.of_folders(data, config.transform)
            else:
                before = profiles.of_run(config.workspace, config.name, arguments.run_name or "latest")
            after = profiles.of_folders(*profiles.as_read(before, config.data, config.transform), arguments.since)
    except (DatasetError, profiles.NoStatistics) as error:
        raise CommandError(str(error), exit_code(type(error).__name__)) from error
    found = comparison.compare(before, after, config.drift.thresholds)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    print(json.dumps(found.as_json(), ensure_ascii=False) if arguments.json else found.as_text())
    if arguments.prometheus:
        write_output("--prometheus", arguments.prometheus, found.as_prometheus())
    if found.drifted and (arguments.fail or config.drift.fail):
        raise CommandError(f"Drifted too far: {', '.join(measure.name for measure in found.drifted)}.", DRIFT)
    return OK
