"""What lies in a directory of numbered versions, which a model server watches. No TFX, TensorFlow or labels here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

from components.common import storage, version_settings
from serving.version_directory import GRAPH_FILE, LANGUAGE_MODEL_FILE, SETTINGS_FILE, WITHDRAWN, number_of

Kind = Literal["recogniser", "line finder"]


class NoVersionError(ValueError):
    """A path leads to no version of the kind that is wanted; the message says what is there."""


@dataclass(frozen=True)
class Version:
    """A pushed version.

    Attributes:
        number: Number of the version; the greatest is the newest.
        path: Its directory.
        withdrawn: True after a rollback.
    """

    number: int
    path: str
    withdrawn: bool


def list_versions(model_dir: str, unfinished: bool = False) -> list[Version]:
    """All versions below a model directory, oldest first, with those that were withdrawn.

    Args:
        model_dir: Directory of the numbered versions.
        unfinished: Whether to list those in a bucket whose graph is missing: `push` writes it last.
    """
    found = []
    for name in storage.entries(model_dir)[0] if storage.is_dir(model_dir) else ():
        number, path = number_of(name), os.path.join(model_dir, name)
        if number is not None and (unfinished or not storage.is_remote(path) or storage.exists(f"{path}/{GRAPH_FILE}")):
            found.append(Version(number, path, name.startswith(WITHDRAWN)))
    return sorted(found, key=lambda version: version.number)


def offered(model_dir: str) -> list[Version]:
    """The versions below a model directory that servers may take, oldest first: all but those that were withdrawn."""
    return [version for version in list_versions(model_dir) if not version.withdrawn]


def fate(path: str) -> Literal["offered", "withdrawn", "deleted", "unknown"]:
    """What has become of the version that was pushed to a path.

    Returns:
        "unknown" where its model directory is in a bucket, which answers slowly, or not on this machine.
    """
    model_dir, number = os.path.split(path)
    if storage.is_remote(path) or not os.path.isdir(model_dir):
        return "unknown"
    if os.path.isdir(path):
        return "offered"
    return "withdrawn" if os.path.isdir(os.path.join(model_dir, f"{WITHDRAWN}{number}")) else "deleted"


def model_at(path: str) -> str | None:
    """A SavedModel's directory, or that of the newest version below a directory of versions; None if there is none."""
    if storage.exists(os.path.join(path, GRAPH_FILE)):
        return path
    return next((version.path for version in offered(path)[-1:]), None)


def named_version(path: str, wanted: Kind) -> str:
    """The version that a path means.

    Args:
        path: A version (it has `saved_model.pb`), or a directory of versions, of which the newest is taken.
        wanted: What it has to be.

    Raises:
        NoVersionError: No version there, or one of the other kind.
    """
    version = model_at(path)
    if version is None:
        kind = "a model" if wanted == "recogniser" else "a line finder"
        gone = "" if storage.exists(path) else ", and does not exist"
        raise NoVersionError(f"{path} is neither a version of {kind} nor a directory with versions{gone}.")
    if wrong := misplaced(version, wanted):
        raise NoVersionError(wrong)
    return version


def misplaced(version: str, wanted: Kind) -> str:
    """What to say of a version that is a line finder where a recogniser is wanted, or the other way round; else empty.

    Args:
        version: Directory of the version.
        wanted: What is to be done with it; a version without settings may be either.
    """
    if not storage.exists(os.path.join(version, SETTINGS_FILE)):
        return ""
    found = version_settings.is_line_finder(version_settings.read(version))
    if wanted == "recogniser" and found:
        return f"{version} is a line finder, which does not transcribe. Name a model that does."
    if wanted == "line finder" and not found:
        return f"{version} is no line finder, but a model that transcribes."
    return ""


def kept_start(version: str, in_service: str = "") -> str:
    """The model that a training has left as it was: no epoch was better than it, and it needs no other push.

    That is the base model, or where the training started from there the version in service, or a newer one beside it,
    which waits for its label. A version whose images become other tensors, or are softened otherwise, or that lacks
    characters of its start, transcribes in another way with the same weights, and is a new one. So is one with another
    language model than the version's that it started from.

    Args:
        version: Directory of the version; one without settings was not trained here.
        in_service: Directory of the version in service, if there is one.

    Returns:
        What to call it; empty where an epoch was better, or the training started from something else.
    """
    noted = version_settings.read(version)
    start = noted.get("start", {})
    if not start or noted["training"]["best_epoch"] != 0 or _serves_otherwise(noted):
        return ""
    if start["base_model"]:
        return "the base model"
    (folder, name), (model_dir, number) = (os.path.split(_without_links(path)) for path in (start["name"], in_service))
    needs_no_push = folder == model_dir and (number_of(name) or 0) >= (number_of(number) or 0)
    if in_service and needs_no_push and _language_model(start["name"]) == _language_model(version):
        return f"version {name}"
    return ""


def _serves_otherwise(noted: dict[str, Any]) -> bool:
    """Whether a version transcribes in another way than its start does, were the weights the same.

    Args:
        noted: Its settings. Earlier releases noted less of the start, and line finders note none of this: what is not
            noted counts as the same.
    """
    start = noted["start"]
    own = {"transform": noted.get("transform"), "softening": noted.get("model", {}).get("softening")}
    lacks = set(start.get("alphabet", ())) - set(noted.get("alphabet", ()))
    return bool(lacks) or any(start.get(name, value) != value for name, value in own.items())


def _without_links(path: str) -> str:
    return storage.absolute(path) if storage.is_remote(path) else os.path.realpath(path)


def _language_model(version: str) -> bytes:
    path = os.path.join(version, LANGUAGE_MODEL_FILE)
    return storage.read(path) if storage.exists(path) else b""
