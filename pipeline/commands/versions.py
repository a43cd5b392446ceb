"""Commands about pushed versions and their labels: `versions`, `promote`, `rollback`, `restore`."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pipeline.commands.common import (
    MODELS,
    AddCommand,
    CommandError,
    add_config_arguments,
    add_task_argument,
    read_config,
)
from pipeline.commands.model_servers import add_server_arguments, server_options, servers_from, tls_from
from pipeline.exit_codes import ERROR, OK, USAGE

if TYPE_CHECKING:
    from pipeline.config import Config
    from serving.rollout.moving import Moved, Rollout


def add_commands(add: AddCommand) -> None:
    """Adds them to the parser of `htr`."""
    command = add(
        "versions",
        _versions,
        "list the pushed versions, or those that servers know",
        "htr versions --server localhost:8500",
    )
    add_task_argument(command)
    add_config_arguments(command, None, MODELS)
    add_server_arguments(command)

    command = add(
        "promote",
        _promote,
        "assign a label to a version, once the running servers have loaded it",
        "htr promote 1778234567 --label stable --server localhost:8500",
    )
    command.add_argument("version", type=int, metavar="VERSION", help="a number that `htr versions` lists")
    _add_label_argument(command, required=True, text="the label to assign")
    add_task_argument(command)
    add_config_arguments(command, None, MODELS)
    add_server_arguments(command, move=True)

    text = "withdraw the newest version, so that servers go back to the one before; or move a label back"
    command = add("rollback", _rollback, text, "htr rollback --label stable --server localhost:8500")
    _add_label_argument(
        command,
        required=False,
        text="move this label back to the version that had it before; a canary without one ends",
    )
    add_task_argument(command)
    add_config_arguments(command, None, MODELS)
    add_server_arguments(command, move=True)

    command = add(
        "restore", _restore, "bring a version back that `htr rollback` has withdrawn", "htr restore 1778234567"
    )
    command.add_argument("version", type=int, metavar="VERSION", help="a number that `htr versions` lists as withdrawn")
    add_task_argument(command)
    add_config_arguments(command, None, MODELS)


def _versions(arguments: argparse.Namespace) -> int:
    from components.common import in_service
    from components.common.versions import list_versions
    from serving.rollout.labels import RolloutError
    from serving.version_directory import nothing_pushed

    config = read_config(arguments)
    name, model_dir = config.servable
    if arguments.server:
        return _served_versions(arguments, config)
    found = list_versions(model_dir)
    if not found:
        raise CommandError(nothing_pushed(model_dir, config.options))
    try:
        labels = in_service.labels(model_dir, name)
    except RolloutError as error:
        raise CommandError(str(error)) from error
    newest = max((v.number for v in found if not v.withdrawn), default=None)
    for version in found:
        notes = ["withdrawn"] if version.withdrawn else ["newest"] if version.number == newest else []
        notes += [label for label, number in labels.items() if number == version.number]
        cer = ((in_service.metrics(model_dir, version.number) or {}).get("metrics") or {}).get("cer")
        rate = "CER unknown" if cer is None else f"CER {cer:>7.2%}"
        print(f"{version.number}  {_moment(version.number)}  {rate:<11s}  {version.path}  {', '.join(notes)}".rstrip())
    withdrawn = [version.number for version in found if version.withdrawn]
    if withdrawn:
        print(f"To bring a withdrawn version back: htr restore {withdrawn[-1]}{config.options}", file=sys.stderr)
    return OK


def _moment(number: int) -> str:
    """When a version was pushed; blank for numbers that are no time of a push, such as those of base models."""
    try:
        pushed = datetime.datetime.fromtimestamp(number)
    except (ValueError, OverflowError, OSError):
        pushed = datetime.datetime.min
    return f"{pushed:%Y-%m-%d %H:%M:%S}" if pushed.year > 2000 else " " * len("2026-05-04 10:12:31")


def _served_versions(arguments: argparse.Namespace, config: Config) -> int:
    from components.common import storage
    from serving.rollout.labels import LABELS, Labels, RolloutError, config_path
    from serving.rollout.model_server import ServerError, servers_at

    name, model_dir = config.servable
    try:
        # Asked from elsewhere there is no such file, and nothing to compare.
        said = {} if storage.is_remote(model_dir) else Labels.read(model_dir, name).labels
    except RolloutError as error:
        raise CommandError(str(error)) from error
    wanted = {label: number for label, number in said.items() if label in LABELS}
    servers = servers_at(servers_from(arguments), tls_from(arguments))
    code = OK
    for server in servers:
        with server:
            if len(servers) > 1:
                print(f"{server.address}:", flush=True)
            wrong = ""
            try:
                rows = server.labelled(name)
            except ServerError as error:  # the other servers are asked all the same
                rows, wrong = [], str(error)
            for row in rows:
                print(f"{row.number}  {row.state:<9s}  {', '.join(row.labels):<14s}  {row.reason}".rstrip(), flush=True)
            seen = {label: row.number for row in rows for label in row.labels}
            if rows and "stable" in wanted and seen != wanted:
                wrong = (
                    f"{server.address} has {_told(seen)}, but {config_path(model_dir)} says {_told(wanted)}. A server "
                    "that starts during a promotion has read the file of before. To bring it up to date: "
                    f"htr promote {wanted['stable']} --label stable{config.options}"
                    f"{server_options(arguments, [server.address])}"
                )
            if wrong:
                print(f"error: {wrong}", file=sys.stderr, flush=True)
                code = ERROR
    return code


def _told(labels: Mapping[str, int]) -> str:
    return ", ".join(f"{label} at {number}" for label, number in sorted(labels.items(), reverse=True)) or "no label"


def _promote(arguments: argparse.Namespace) -> int:
    return _move_label(arguments, lambda rollout: rollout.promote(arguments.version, arguments.label))


def _rollback(arguments: argparse.Namespace) -> int:
    from components.common.in_service import VersionError, in_service
    from components.pusher.publishing import roll_back

    if arguments.label:
        return _move_label(arguments, lambda rollout: rollout.roll_back(arguments.label))
    if arguments.server:
        raise CommandError("--server goes with --label: servers see by themselves what is withdrawn.", USAGE)
    config = read_config(arguments)
    name, model_dir = config.servable
    try:
        withdrawn, newest = roll_back(model_dir, config.options)
        current = in_service(model_dir, name)
    except VersionError as error:
        raise CommandError(str(error)) from error
    undo = f"htr restore {withdrawn}{config.options}"
    print(f"Withdrew version {withdrawn}; version {newest} is the newest again. Undo: {undo}")
    if current is not None and current.number != newest:
        back = f"htr rollback{config.options} --label stable --server HOST:PORT"
        print(f"The label stable stays with version {current.number}, which answers as before. To move it back: {back}")
    return OK


def _move_label(arguments: argparse.Namespace, move: Callable[[Rollout], Moved]) -> int:
    from serving.rollout.labels import Refused, RolloutError
    from serving.rollout.moving import Rollout
    from serving.rollout.siblings import Sibling

    config = read_config(arguments)
    name, model_dir = config.servable
    other = config.model_copy(update={"task": "text" if config.task == "pages" else "pages"})
    sibling = Sibling(*other.servable, other.options)
    rollout = Rollout(
        model_dir, name, servers_from(arguments), tls_from(arguments), arguments.base_path, arguments.timeout,
        config.options, sibling,
    )  # fmt: skip
    try:
        moved = move(rollout)
        note = sibling.note(model_dir)
    except RolloutError as error:
        raise CommandError(str(error), USAGE if isinstance(error, Refused) else ERROR) from error
    before = f" (before: {moved.before})" if moved.before not in (None, moved.version) else ""
    print(f"{moved.label} is version {moved.version}{before}, in {moved.path}.")
    for label, number in moved.along.items():
        print(f"{label} has moved along (before: {number}).")
    if moved.next_older:
        print("No earlier version with this label is known: this is the next older one.")
    if moved.servers:
        print(f"It answers on {', '.join(moved.servers)}.", flush=True)
    elif not moved.away:
        print("Servers read this when they start; to move the label on running ones, name them with --server.")
    if note:
        print(f"note: {note}", file=sys.stderr, flush=True)
    if moved.away:
        reached = server_options(arguments, moved.away)
        again = f"htr promote {moved.version} --label {moved.label}{config.options}{reached}"
        raise CommandError(
            f"Not on {', '.join(moved.away)}: {' '.join(moved.away.values())} A server reads {moved.path.name} when it "
            f"starts. Where it has not ended, repeat: {again}"
        )
    return OK


def _restore(arguments: argparse.Namespace) -> int:
    from components.common.in_service import VersionError, in_service
    from components.pusher.publishing import restore

    config = read_config(arguments)
    name, model_dir = config.servable
    try:
        newest = restore(model_dir, arguments.version)
        current = in_service(model_dir, name)
    except VersionError as error:
        raise CommandError(str(error)) from error
    print(f"Version {arguments.version} is back.")
    if current is not None and current.number != newest:
        promote = f"htr promote {arguments.version} --label stable{config.options}"
        print(f"The label stable stays with version {current.number}: {promote}")
    elif newest != arguments.version:
        print(f"Version {newest} is newer and stays in service.")
    else:
        print("It is the newest: servers without labels take it.")
    return OK


def _add_label_argument(command: argparse.ArgumentParser, required: bool, text: str) -> None:
    from serving.rollout.labels import LABELS

    command.add_argument("--label", required=required, choices=LABELS, help=text)
