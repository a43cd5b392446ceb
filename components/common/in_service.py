"""Which version of a model directory is in service, by the labels beside it, and what is known of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from components.common import storage
from components.common.versions import Version, list_versions, model_at, offered
from serving.rollout.labels import CONFIG_FILE, Labels, RolloutError, config_path
from serving.version_directory import GRAPH_FILE, METRICS_FILE


class VersionError(RuntimeError):
    """The versions of a model directory cannot be used or changed as asked; the message says why."""


def in_service(model_dir: str, name: str) -> Version | None:
    """The version that answers where no version is asked for: the one labelled stable, else the newest.

    A version that lacks its graph or its weights does not count, since no server can load it.

    Args:
        model_dir: Directory of the numbered versions.
        name: Name of the model in the file of labels.

    Raises:
        VersionError: The file of labels cannot be read.
    """
    found = [version for version in offered(model_dir) if _is_complete(version.path)]
    try:
        stable = labels(model_dir, name).get("stable")
    except RolloutError as error:
        raise VersionError(str(error)) from error
    labelled = [version for version in found if version.number == stable]
    return next(iter(labelled or found[-1:]), None)


def model_in_service(model_dir: str, name: str) -> str | None:
    """Directory of the version in service, for what works without a server; None if there is no version.

    Where none is complete it is that of the newest, whose reader then says what it lacks.

    Args:
        model_dir: Directory of the numbered versions, or a SavedModel's.
        name: Name of the model in the file of labels.

    Raises:
        VersionError: The file of labels cannot be read.
    """
    found = in_service(model_dir, name)
    return found.path if found else model_at(model_dir)


def needing_no_push(model_dir: str, name: str) -> list[Version]:
    """The versions whose models need no other push: the one in service, and the newest, which may wait for its label.

    Args:
        model_dir: Directory of the numbered versions.
        name: Name of the model in the file of labels.

    Returns:
        None, one or two versions, the newest first.

    Raises:
        VersionError: The file of labels cannot be read.
    """
    found, answering = offered(model_dir)[-1:], in_service(model_dir, name)
    return found if answering is None or answering in found else [*found, answering]


def withdrawn_as(model_dir: str, model: str) -> Version | None:
    """The version as which a model was withdrawn: the newest one that holds it, unless that is in service.

    Args:
        model_dir: Directory of the numbered versions.
        model: Directory of the SavedModel.

    Raises:
        OSError: A model cannot be read.
    """
    found = list_versions(model_dir)
    if not any(version.withdrawn for version in found):  # then nothing needs to be read
        return None
    newest = next((version for version in reversed(found) if holds(version, model)), None)
    return newest if newest is not None and newest.withdrawn else None


def _is_complete(path: str) -> bool:
    return all(storage.exists(os.path.join(path, name)) for name in (GRAPH_FILE, "variables/variables.index"))


def labels(model_dir: str, name: str) -> dict[str, int]:
    """Versions by label, from the file of labels that belongs to a model directory, here or in a bucket.

    Args:
        model_dir: Directory of the numbered versions.
        name: Name of the model in that file.

    Raises:
        RolloutError: The file cannot be understood.
    """
    if not storage.is_remote(model_dir):
        if not config_path(model_dir).exists():  # its messages take long to import
            return {}
        return Labels.read(model_dir, name).labels
    path = config_in_bucket(model_dir)
    text = storage.read(path).decode(errors="replace") if storage.exists(path) else ""
    return Labels.parse(text, Path(path), name).labels


def config_in_bucket(model_dir: str) -> str:
    """Where the file of labels lies that belongs to a model directory in a bucket; within it, if that is the bucket."""
    folder = model_dir.rstrip("/")
    above = folder.rpartition("/")[0]
    return f"{folder if above.endswith('/') else above}/{CONFIG_FILE}"


def metrics(model_dir: str, number: int) -> dict[str, Any] | None:
    """What was measured of a version before its push (`metrics.json` of the run's report); None if nobody noted it."""
    path = os.path.join(model_dir, f"{number}.{METRICS_FILE}")
    try:
        return json.loads(storage.read(path)) if storage.exists(path) else None
    except ValueError:
        return None


def holds(version: Version, model: str) -> bool:
    """Whether a version is a copy of the SavedModel in the directory `model`."""
    return storage.digest(version.path) == storage.digest(model)
