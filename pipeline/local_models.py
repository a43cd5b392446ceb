"""Which model transcribes: a pushed version of the workspace, else the base model that is shipped.

In Python:

    from pipeline.local_models import local_client

    with local_client() as client:
        print(client.transcribe("word.png").text)
"""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.base_model import packing
from components.common import storage, version_settings
from components.common.in_service import VersionError, model_in_service
from components.common.versions import Kind, NoVersionError, list_versions, named_version, offered
from htr_client.model_facts import LINE_FINDER, MAX_PIXELS
from pipeline.config import Config, load
from serving.version_directory import nothing_pushed

if TYPE_CHECKING:
    from htr_client.base import DecoderOf
    from htr_client.decoding import Decoder
    from serving.local import LocalClient

# It transcribes words as well.
DEFAULT_BASE = "line"
_TEXTS = {"line": "lines and words", "word": "words"}


class NoModelError(RuntimeError):
    """There is no model to transcribe with; the message says what to do."""


@dataclass(frozen=True)
class Model:
    """The model that was found.

    Attributes:
        path: Directory of the version.
        name: Name of the model, for results.
        note: What it is, for people; of a base model also why it was taken and how to adapt it.
        is_base: Whether it is a base model.
    """

    path: str
    name: str
    note: str
    is_base: bool = False


def find_model(config: Config, directory: str | None = None, base: str | None = None) -> Model:
    """Finds the model for a command that runs without a server.

    Args:
        config: Settings whose workspace holds the pushed versions.
        directory: A version, or a directory of versions, to take instead.
        base: Preset of the base model to take, whatever was pushed.

    Returns:
        The version in service: the one labelled stable, else the newest that is not withdrawn; where nothing was
        pushed, the base model for lines, which also transcribes words. Of a directory that is named, the newest.

    Raises:
        NoModelError: No model there, or a line finder, all versions are withdrawn, the labels cannot be read, or no
            base model is shipped for the preset.
        OSError: The base model cannot be unpacked.
    """
    if base is not None:
        return _base(base, "")
    place = storage.absolute(directory or config.model_dir)
    if directory is not None:
        version = _named(place, "recogniser")
        return Model(version, config.name, f"The model is {version}")
    if (found := _in_service(place, config.name, "recogniser")) is not None:
        return Model(found, config.name, f"The model is {found}{_newer(found)}")
    if list_versions(place):
        raise NoModelError(f"All versions in {place} are withdrawn (htr versions lists them).")
    try:
        return _base(DEFAULT_BASE, f"No version has been pushed to {place} yet. ")
    except NoModelError as error:
        raise NoModelError(
            f"{nothing_pushed(place)} If one was pushed elsewhere, name what it was pushed with (--workspace, "
            f"--config, --set name=...). {error}"
        ) from error


def _named(path: str, wanted: Kind) -> str:
    try:
        return named_version(path, wanted)
    except NoVersionError as error:
        raise NoModelError(str(error)) from error


def _in_service(model_dir: str, name: str, wanted: Kind) -> str | None:
    try:
        version = model_in_service(model_dir, name)
    except VersionError as error:
        raise NoModelError(str(error)) from error
    return _named(version, wanted) if version is not None else None


def _newer(version: str) -> str:
    """What to say of a version in service that is not the newest; else nothing."""
    newest = [newer.number for newer in offered(os.path.dirname(version))[-1:] if newer.path != version]
    return "".join(f", which is in service; version {number} is newer" for number in newest)


def _base(preset: str, why: str) -> Model:
    try:
        version = packing.unpack(preset)
    except packing.BaseModelError as error:
        raise NoModelError(str(error)) from error
    note = (
        f"{why}This is the base model for {_TEXTS.get(preset, preset)} in {_scripts(version)} script, version "
        f"{os.path.basename(version)}. To adapt it to your handwriting: htr run --data FOLDER"
    )
    return Model(version, f"base-{preset}", note, is_base=True)


def _scripts(version: str) -> str:
    """The scripts that a version writes, such as "Latin"."""
    alphabet = version_settings.read(version)["alphabet"]
    letters = [character for character in alphabet if character.isupper() or character.islower()]
    return " and ".join(sorted({unicodedata.name(letter).partition(" ")[0].title() for letter in letters}))


def preset_of(version: str) -> str | None:
    """Preset that a version was trained with, by its settings; None where it has none."""
    preset: str | None = version_settings.read(version).get("transform", {}).get("preset")
    return preset


def pushed_line_finder(config: Config, directory: str | None = None) -> str | None:
    """Version directory of the line finder that is named, else of the one in service.

    Args:
        config: Whose workspace may hold pushed versions.
        directory: A version, or a directory of versions, to take instead.

    Returns:
        None where nothing is named and nothing was pushed.

    Raises:
        NoModelError: There is no version in the directory that is named, or one that transcribes, or the labels
            cannot be read.
    """
    if directory is not None:
        return _named(storage.absolute(directory), "line finder")
    return _in_service(storage.absolute(config.line_finder_dir), LINE_FINDER, "line finder")


def base_line_finder() -> str | None:
    """Version directory of the line finder that is shipped; None where there is none.

    Raises:
        NoModelError: It is damaged.
    """
    if not packing.is_shipped(packing.PAGES):
        return None
    try:
        return packing.unpack(packing.PAGES)
    except packing.BaseModelError as error:
        raise NoModelError(str(error)) from error


def local_client(
    workspace: str = "workspace", *, base: str | None = None, decoder: Decoder | DecoderOf | None = None,
    max_pixels: int = MAX_PIXELS,
) -> LocalClient:  # fmt: skip
    """A client that needs no server: it transcribes in this process, and its results are those of `HtrClient`.

    Args:
        workspace: Folder whose versions in service are taken; where none was pushed, the base model for lines, and the
            base line finder.
        base: Preset of the base model to take, whatever was pushed.
        decoder: How log-probabilities become text; by default as `HtrClient`.
        max_pixels: Images with more pixels are refused before they are decoded.

    Raises:
        NoModelError: There is neither, or the base line finder is damaged.
    """
    from serving.local import LocalClient

    config = load(workspace=workspace)
    model = find_model(config, base=base)
    finder = pushed_line_finder(config) or base_line_finder()
    return LocalClient(model.path, model.name, decoder=decoder, line_finder=finder, max_pixels=max_pixels)
