"""What a batch transcription has to do and has done: list of images, shards, and the records that allow a restart.

The images are divided among shards by a hash of their path, so that an image always belongs to the same shard. A
shard is one output file; beside all of them lies the folder `<output>.state` with

    manifest.json     which model, which input, how many shards: fixed by the first run
    pictures.jsonl    the images of this run, shard by shard; workers read their part of it
    00000.json, ...   one record a shard: the images it holds, with size and time, and those that failed

Files are written to `incoming` in that folder and renamed, objects of a bucket written whole: whoever is killed leaves
whole shards or none. All paths may be local or in a bucket.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from components.common import storage
from components.common.words import counted
from htr_client.files import SUFFIXES

_LISTED = (*SUFFIXES, ".gif")  # which cannot be read: it is named among the errors
FORMATS = (".jsonl", ".csv")
_COLUMNS = {"texts": ["path", "text", "confidence"], "errors": ["path", "reason", "detail"]}


class BatchError(ValueError):
    """The batch cannot start, or cannot go on where it stopped; the message says why and what to do."""


class NoImages(BatchError):
    """The input folder holds no image."""


@dataclass(frozen=True)
class Image:
    """An image of the input folder.

    Attributes:
        path: below the folder.
        stamp: size and time of its last change; another stamp is another image.
    """

    path: str
    stamp: str


@dataclass(frozen=True)
class Record:
    """What a shard holds.

    Attributes:
        stamps: of the images it has dealt with, by path.
        errors: images that could not be read: path, reason, detail.
        run: identity of the run that wrote it.
        new: images that this run transcribed or tried to.
    """

    stamps: dict[str, str] = field(default_factory=dict)
    errors: list[dict[str, str]] = field(default_factory=list)
    run: str = ""
    new: int = 0


@dataclass(frozen=True)
class Shard:
    """One piece of work for one worker.

    Attributes:
        number: from 0.
        offset, length: bytes of `pictures.jsonl` that list its images.
    """

    number: int
    offset: int
    length: int


@dataclass(frozen=True)
class Job:
    """Where a batch reads and writes; small, since it travels to every worker.

    Attributes:
        folder: of the images.
        output: file name of the output, ending in .jsonl or .csv.
        shards: number of output files.
    """

    folder: str
    output: str
    shards: int

    @property
    def state(self) -> str:
        """Folder of the records."""
        return f"{self.output}.state"

    @property
    def incoming(self) -> str:
        """Folder of files that are being written."""
        return os.path.join(self.state, "incoming")

    @property
    def errors_path(self) -> str:
        """File of the images that could not be read."""
        stem, suffix = os.path.splitext(self.output)
        return f"{stem}-errors{suffix}"

    def shard_path(self, number: int) -> str:
        """Output file of a shard."""
        stem, suffix = os.path.splitext(self.output)
        return f"{stem}-{number:05d}-of-{self.shards:05d}{suffix}"

    def record_path(self, number: int) -> str:
        """Record of a shard."""
        return os.path.join(self.state, f"{number:05d}.json")

    def read_record(self, number: int) -> Record:
        """The record of a shard; an empty one where there is none yet."""
        path = self.record_path(number)
        return Record(**json.loads(storage.read(path))) if storage.exists(path) else Record()

    def pictures(self, shard: Shard) -> list[Image]:
        """The images of a shard, by path."""
        lines = storage.read(os.path.join(self.state, "pictures.jsonl"), shard.length, shard.offset)
        return [Image(*json.loads(line)) for line in lines.splitlines()]

    def write_shard(self, number: int, texts: list[dict[str, Any]], record: Record) -> None:
        """Writes the texts of a shard (path, text, confidence), then its record."""
        # In this order: a record without its texts would pass for done work.
        self.write(self.shard_path(number), _format(texts, "texts", self.output))
        self.write(self.record_path(number), json.dumps(asdict(record)).encode())

    def read_texts(self, number: int) -> dict[str, dict[str, Any]]:
        """The texts that a shard holds, by path."""
        path = self.shard_path(number)
        if not storage.exists(path):
            return {}
        text = storage.read(path).decode("utf-8", "surrogateescape")
        rows: Iterable[dict[str, Any]]
        if self.output.endswith(".jsonl"):
            rows = (json.loads(line) for line in text.split("\n") if line)
        else:
            lines = csv.DictReader(io.StringIO(text, newline=""))
            rows = ({**row, "confidence": float(row["confidence"])} for row in lines)
        return {row["path"]: row for row in rows}

    def write(self, path: str, data: bytes) -> None:
        """Writes a file that is seen whole or not at all."""
        if storage.is_remote(path):
            storage.write(path, data)
            return
        # Two workers may write the same shard when an engine believes that one of them has died.
        temporary = os.path.join(self.incoming, uuid.uuid4().hex)
        os.makedirs(self.incoming, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
        os.replace(temporary, path)

    def write_errors(self, errors: list[dict[str, str]]) -> None:
        """Writes the file of images that could not be read; there is always one, if only with its header."""
        self.write(self.errors_path, _format(sorted(errors, key=lambda error: error["path"]), "errors", self.output))


def written(output: str) -> str:
    """How much of a batch is written, such as "3 of 20 files"; empty where that is not known (yet)."""
    state = Path(f"{output}.state")
    try:
        shards = json.loads((state / "manifest.json").read_bytes())["shards"]
        done = sum(1 for path in state.glob("[0-9]*.json"))
    except OSError:  # not begun, or in a bucket, where looking takes long
        return ""
    return f"{done} of {counted(shards, 'file')}"


def list_pictures(folder: str) -> list[Image]:
    """All images below a folder, known by their file names' endings, sorted by path.

    Raises:
        BatchError: there is no such folder.
        NoImages: there is no image in it.
    """
    pictures: list[Image] = []
    if storage.is_remote(folder):
        with contextlib.suppress(FileNotFoundError):  # an empty folder of a bucket is none
            found = [(file.path.removeprefix(f"{folder}/"), file.stamp) for file in storage.files(folder)]
            pictures = [Image(path, stamp) for path, stamp in found if path.lower().endswith(_LISTED)]
    elif os.path.isdir(folder):
        pictures = list(_walk(folder))
    else:
        raise BatchError(f"The input folder {folder} does not exist or is not a folder.")
    if not pictures:
        raise NoImages(f"There is no image ({', '.join(SUFFIXES)}) anywhere below {folder}.")
    return sorted(pictures, key=lambda picture: picture.path)


def _walk(folder: str) -> Iterable[Image]:
    # Folders with those they lie in: links are followed, but not in circles.
    waiting: list[tuple[str, frozenset[str]]] = [(folder, frozenset())]
    while waiting:
        place, above = waiting.pop()
        real = os.path.realpath(place)
        if real in above:
            continue
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.is_dir():
                    waiting.append((entry.path, above | {real}))
                elif entry.name.lower().endswith(_LISTED):
                    # A link that leads nowhere stays in the list: opening it fails, which is reported.
                    stat = entry.stat(follow_symlinks=os.path.exists(entry.path))
                    yield Image(os.path.relpath(entry.path, folder), f"{stat.st_size}-{stat.st_mtime_ns}")


def plan(
    folder: str, output: str, model: dict[str, str], pictures_per_shard: int, overwrite: bool
) -> tuple[Job, list[Shard], int]:
    """Divides the images among shards, and notes what later runs must not change.

    Args:
        folder: of the images.
        output: file name of the output, ending in .jsonl or .csv.
        model: `path` of the model, for people, and `fingerprint`, which tells models apart.
        pictures_per_shard: on average; it counts in the first run only.
        overwrite: forget what earlier runs have done.

    Returns:
        The job, its shards, and the number of images.

    Raises:
        BatchError: no images, an unknown file format, or an earlier run had another model or input.
    """
    if not output.endswith(FORMATS):
        raise BatchError(f"The output {output} must end in {' or '.join(FORMATS)}.")
    pictures = list_pictures(folder)
    job = Job(folder, output, max(1, -(-len(pictures) // pictures_per_shard)))
    manifest_path = os.path.join(job.state, "manifest.json")
    if storage.exists(manifest_path):
        if overwrite:
            before = Job(folder, output, json.loads(storage.read(manifest_path))["shards"])
            for path in (before.state, before.errors_path, *map(before.shard_path, range(before.shards))):
                _delete(path)
        else:
            job = _resumed(job, json.loads(storage.read(manifest_path)), model)
    _delete(job.incoming)
    job.write(manifest_path, json.dumps({"input": folder, "shards": job.shards, "model": model}, indent=1).encode())
    by_shard: list[list[Image]] = [[] for _ in range(job.shards)]
    for picture in pictures:
        by_shard[_shard_of(picture.path, job.shards)].append(picture)
    listing, shards = io.BytesIO(), []
    for number, members in enumerate(by_shard):
        offset = listing.tell()
        listing.writelines(json.dumps([p.path, p.stamp]).encode() + b"\n" for p in members)
        shards.append(Shard(number, offset, listing.tell() - offset))
    job.write(os.path.join(job.state, "pictures.jsonl"), listing.getvalue())
    return job, shards, len(pictures)


def _resumed(job: Job, manifest: dict[str, Any], model: dict[str, str]) -> Job:
    if manifest["model"]["fingerprint"] != model["fingerprint"]:
        different = f"with the model {manifest['model']['path']}, and {model['path']} is another one"
    elif manifest["input"] != job.folder:
        different = f"for the images in {manifest['input']}, not for those in {job.folder}"
    else:
        return Job(job.folder, job.output, manifest["shards"])
    raise BatchError(
        f"{job.output} was begun {different}. Name another output, or begin this one again with --overwrite."
    )


def _delete(path: str) -> None:
    """Deletes a file, or a folder with all that is in it, if there is one."""
    if storage.is_dir(path):
        storage.remove_tree(path)
    elif storage.exists(path):
        storage.remove(path)


def _shard_of(path: str, shards: int) -> int:
    return int.from_bytes(hashlib.sha256(os.fsencode(path)).digest()[:8], "big") % shards


def _format(rows: list[dict[str, Any]], kind: str, output: str) -> bytes:
    text = io.StringIO(newline="")
    if output.endswith(".csv"):
        writer = csv.DictWriter(text, _COLUMNS[kind], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        text.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    # File names need not be UTF-8.
    return text.getvalue().encode("utf-8", "surrogateescape")
