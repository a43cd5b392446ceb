"""What a batch transcription has to do and has done: list of images, shards, and the records that allow a restart.

The images are divided among shards by a hash of their path, so that an image always belongs to the same shard. A
shard is one file of a table, or the documents of some pages; beside them lies the folder `<output>.state` with

    manifest.json       which model, which input, what is written, how many shards: fixed by the first run
    images-RUN.jsonl    the images of a run, shard by shard; workers read their part of it, and it goes with the run
    00000.json, ...     one record a shard: the images it holds, with size and time, and those that failed
    documents-00000.json, ...    digests of the documents that a shard has written
    .lock               held while a run works here, unless the output is in a bucket, where two may work at once

Files are written to `incoming` in that folder and renamed, objects of a bucket written whole: whoever is killed leaves
whole shards or none. All paths may be local or in a bucket.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import uuid
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from components.batch_transcriber.documents import OwnFiles, names_of
from components.batch_transcriber.listing import Image, Listing, list_images
from components.batch_transcriber.output import BatchError, format_rows, table_format
from components.common import storage
from components.common.ahead import ahead
from components.common.records import read_record
from components.common.words import counted
from htr_client.files import PAGE_FORMATS
from serving import file_lock

_ERROR_COLUMNS = ["path", "reason", "detail"]


@dataclass(frozen=True)
class Record:
    """What a shard holds.

    Attributes:
        stamps: Stamps of the images it has dealt with, by path.
        errors: Images that could not be read: path, reason, detail.
        run: Identity of the run that wrote it.
        new: Images that this run transcribed or tried to.
        remarks: Path, reason and detail of pages that lack lines or texts.
        documents: Names of the files of pages below the output folder, by path; none of a table.
        lines: Number of lines of each page.
        suspicions: Why the text of an image may be nonsense: codes as of `htr_client.suspicion`, by path.
        deleted: Number of documents that this run deleted.
    """

    stamps: dict[str, str] = field(default_factory=dict)
    errors: list[dict[str, str]] = field(default_factory=list)
    run: str = ""
    new: int = 0
    remarks: list[dict[str, str]] = field(default_factory=list)
    documents: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    suspicions: dict[str, list[str]] = field(default_factory=dict)
    deleted: int = 0


@dataclass(frozen=True)
class Shard:
    """One piece of work for one worker.

    Attributes:
        number: Its number, from 0.
        offset, length: Bytes of the run's list that are about its images.
    """

    number: int
    offset: int
    length: int


@dataclass(frozen=True)
class Job:
    """Where a batch reads and writes; small, since it travels to every worker.

    Attributes:
        folder: Folder of the images.
        output: File name of the output, ending in .jsonl or .csv, or folder of documents.
        shards: Number of shards.
        kind: Kind of the images: "line", "page" or "auto".
        format: "jsonl" or "csv" for a table, or that of documents.
        has_documents: Whether each page becomes a file.
        run: Identity of the run.
        has_suspicions: Whether a table has the column `suspicions`; those that earlier releases have begun have none.
    """

    folder: str
    output: str
    shards: int
    kind: str
    format: str
    has_documents: bool
    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    has_suspicions: bool = True

    @property
    def state(self) -> str:
        """Folder of the records."""
        return f"{self.output}.state"

    @property
    def incoming(self) -> str:
        """Folder of files that are being written."""
        return os.path.join(self.state, "incoming")

    @property
    def list_path(self) -> str:
        """The run's list of images: another run that begins meanwhile has a list of its own."""
        return os.path.join(self.state, f"images-{self.run}.jsonl")

    @property
    def errors_path(self) -> str:
        """File of the images that could not be read, and of pages that lack something."""
        stem, suffix = (self.output, ".csv") if self.has_documents else os.path.splitext(self.output)
        return f"{stem}-errors{suffix}"

    @property
    def columns(self) -> list[str]:
        """Columns of a table of texts."""
        first = ["path"] if self.kind == "line" else ["path", "line"]
        return [*first, "text", "confidence", *(["suspicions"] if self.has_suspicions else [])]

    def shard_path(self, number: int) -> str:
        """Output file of a shard."""
        stem, suffix = os.path.splitext(self.output)
        return f"{stem}-{number:05d}-of-{self.shards:05d}{suffix}"

    def shard_of(self, path: str) -> int:
        """Number of an image's shard."""
        # Images that differ in their endings only are in one shard: one may take over the document of another.
        path = os.path.splitext(path)[0] if self.has_documents else path
        return int.from_bytes(hashlib.sha256(os.fsencode(path)).digest()[:8], "big") % self.shards

    def record_path(self, number: int) -> str:
        """Record of a shard."""
        return os.path.join(self.state, f"{number:05d}.json")

    def read_record(self, number: int) -> Record:
        """The record of a shard; an empty one where there is none yet, or a power cut has emptied it."""
        return Record(**read_record(self.record_path(number)))

    def documents_path(self, number: int) -> str:
        """Notes about the documents of a shard."""
        return os.path.join(self.state, f"documents-{number:05d}.json")

    def own_files(self, number: int) -> OwnFiles:
        """The documents that a shard has written."""
        return OwnFiles(self.output, self.documents_path(number), self.write)

    def images(self, shard: Shard) -> list[Image]:
        """The images of a shard, by path."""
        lines = storage.read(self.list_path, shard.length, shard.offset)
        return [Image(*json.loads(line)) for line in lines.splitlines()]

    def write_record(self, number: int, record: Record) -> None:
        """Writes the record of a shard; its texts come first, since a record without them would pass for done work."""
        self.write(self.record_path(number), json.dumps(asdict(record)).encode())

    def write(self, path: str, data: bytes) -> None:
        """Writes a file that is seen whole or not at all."""
        if storage.is_remote(path):
            storage.write(path, data)
            return
        # Two workers may write the same shard when an engine believes that one of them has died.
        temporary = os.path.join(self.incoming, uuid.uuid4().hex)
        os.makedirs(self.incoming, exist_ok=True)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave an empty file with the name
        os.replace(temporary, path)

    def write_errors(self, errors: list[dict[str, str]]) -> None:
        """Writes the file of images that could not be read; there is always one, if only with its header."""
        errors = sorted(errors, key=lambda error: error["path"])
        self.write(self.errors_path, format_rows(errors, _ERROR_COLUMNS, self.errors_path.rpartition(".")[2]))


def written(output: str) -> str:
    """How much of a batch is written, such as "3 of 20 parts"; empty where that is not known (yet)."""
    state = Path(f"{output}.state")
    try:
        shards = json.loads((state / "manifest.json").read_bytes())["shards"]
        done = sum(1 for path in state.glob("[0-9]*.json"))
    except (OSError, ValueError):  # not begun, or in a bucket, where looking takes long; or damaged
        return ""
    return f"{done} of {counted(shards, 'part')}"


def plan(
    folder: str, output: str, model: dict[str, str], images_per_shard: int, overwrite: bool, kind: str = "line",
    format_: str | None = None, alone: contextlib.ExitStack | None = None,
) -> tuple[Job, list[Shard], Listing]:  # fmt: skip
    """Divides the images among shards, and notes what later runs must not change.

    Args:
        folder: Folder of the images.
        output: File name of the output, ending in .jsonl or .csv, or folder of documents.
        model: `path` of the model, for people, and `fingerprint`, which tells models apart.
        images_per_shard: Average number of images; it counts in the first run only.
        overwrite: Whether to forget what earlier runs have done.
        kind: Kind of the images: "line", "page" or "auto", which for documents is "page".
        format_: Format of documents; by default, the output's ending tells that of a table.
        alone: Holds the lock of a local output from the first change on.

    Returns:
        The job, its shards, and what the folder holds.

    Raises:
        BatchError: No images, an unknown file format, an earlier run had another model or input, or another one works
            on the output.
    """
    table = table_format(output, kind, format_)
    listing = list_images(folder)
    images = listing.images
    shards_needed = max(1, -(-len(images) // images_per_shard))
    if table is None:
        job = Job(folder, output, shards_needed, "page", str(format_), has_documents=True)
    else:
        job = Job(folder, output, shards_needed, kind, table, has_documents=False)
    manifest_path = os.path.join(job.state, "manifest.json")
    parts = [] if storage.exists(manifest_path) else _unknown(job, overwrite)
    if alone is not None and not storage.is_remote(job.state):
        _lock(job, alone)
    if storage.exists(manifest_path):
        if overwrite:
            _remember(job, _forget(replace(job, shards=_begun(job))))
        elif before := read_record(manifest_path):
            job = _resumed(job, before, model)
        else:
            raise BatchError(
                f"{manifest_path} is damaged, as a power cut may leave it, and without it nothing tells what "
                f"{job.output} was begun with. Name another output, or begin this one again with --overwrite."
            )
    else:  # numbered in another way, they would stay beside the new ones
        for path in parts:
            storage.remove(path)
    _delete(job.incoming)
    if job.has_documents:
        records = list(ahead(job.read_record, range(job.shards), storage.READERS))
        former = {path: name for record in records for path, name in record.documents.items()}
        names = names_of([image.path for image in images], PAGE_FORMATS[job.format], former)
        images = [replace(image, document=name) for image, name in zip(images, names, strict=True)]
    settings = {
        "input": folder, "shards": job.shards, "model": model, "kind": job.kind, "format": job.format,
        "suspicions": job.has_suspicions,
    }  # fmt: skip
    job.write(manifest_path, json.dumps(settings, indent=1).encode())
    by_shard: list[list[Image]] = [[] for _ in range(job.shards)]
    for image in images:
        by_shard[job.shard_of(image.path)].append(image)
    lines, shards = io.BytesIO(), []
    for number, members in enumerate(by_shard):
        offset = lines.tell()
        lines.writelines(json.dumps([p.path, p.stamp, p.document]).encode() + b"\n" for p in members)
        shards.append(Shard(number, offset, lines.tell() - offset))
    job.write(job.list_path, lines.getvalue())
    return job, shards, listing


def _unknown(job: Job, overwrite: bool) -> list[str]:
    """Files of a table in the place of the output that no record tells of; refused unless they may be deleted."""
    output = job.output
    if job.has_documents:
        if storage.exists(output) and not (storage.is_dir(output) and _is_empty(output)):
            raise BatchError(
                f"{output} holds files, and nothing tells which of them an earlier batch has written: there is no "
                f"{job.state}. Name a new folder."
            )
        return []
    parts = _parts(output)
    if parts and not overwrite:
        raise BatchError(
            f"{parts[0]} exists, and nothing tells what is in it: there is no {job.state}. Name another output, or "
            f"delete {counted(len(parts), 'file')} of this one with --overwrite."
        )
    return parts


def _lock(job: Job, alone: contextlib.ExitStack) -> None:
    os.makedirs(job.state, exist_ok=True)
    path = os.path.join(job.state, ".lock")
    held = BatchError(
        f"Another htr transcribe works on {job.output} and holds {path}. Wait for it to end, or name another output."
    )
    try:
        alone.enter_context(file_lock.locked(path, held=held))
    except file_lock.NoLocks:
        return
    for left in Path(job.state).glob("images*.jsonl"):  # by runs that were killed
        left.unlink()


def _resumed(job: Job, manifest: dict[str, Any], model: dict[str, str]) -> Job:
    kind, format_ = manifest.get("kind", "line"), manifest.get("format", job.format)  # earlier releases had no pages
    begun, name = manifest["model"]["path"], "Name"
    if kind != job.kind:
        different = f"for images of the kind {kind}, not {job.kind}"
    elif format_ != job.format:
        different = f"in the format {format_}, not {job.format}"
    elif manifest["model"]["fingerprint"] != model["fingerprint"]:
        if begun == model["path"]:
            finder = "" if kind == "line" else "line finder, "
            different = f"with the model {begun}, too, but another {finder}--decoder, --lm or --bfloat16"
        else:
            different = f"with the model {begun}, and {model['path']} is another one"
            name = f"Go on with --model {begun}, name" if storage.exists(begun) else name
    elif manifest["input"] != job.folder:
        different = f"for the images in {manifest['input']}, not for those in {job.folder}"
    else:
        return replace(job, shards=manifest["shards"], has_suspicions=manifest.get("suspicions", False))
    kept = ", which leaves files that somebody has changed as they are" if job.has_documents else ""
    raise BatchError(
        f"{job.output} was begun {different}. {name} another output, or begin this one again with --overwrite{kept}."
    )


def _is_empty(folder: str) -> bool:
    return not any(storage.entries(folder))


def _parts(output: str) -> list[str]:
    """Files of a table, whichever number of shards it has."""
    folder, name = os.path.split(output)
    stem, suffix = map(re.escape, os.path.splitext(name))
    with contextlib.suppress(FileNotFoundError):
        names = storage.entries(folder or ".")[1]
        return [
            os.path.join(folder, one) for one in names if re.fullmatch(rf"{stem}-\d{{5,}}-of-\d{{5,}}{suffix}", one)
        ]
    return []


def _begun(job: Job) -> int:
    """How many shards earlier runs have begun, as their records tell."""
    names = (re.fullmatch(r"(?:documents-)?(\d+)\.json", name) for name in storage.entries(job.state)[1])
    return max((int(name[1]) + 1 for name in names if name), default=0)


def _forget(former: Job) -> dict[str, str]:
    """Deletes what a batch has written, and no file that is not so now; the records come last, the manifest stays.

    A kill would else leave texts beside the new ones that nobody knows of.

    Returns:
        Names of the documents that stay, by path of the image, or by name where that is unknown.
    """
    kept = {}
    for path in () if former.has_documents else _parts(former.output):
        storage.remove(path)
    for number in range(former.shards):
        own = former.own_files(number)
        documents = {**{name: name for name in own.names}, **former.read_record(number).documents}
        names = {name: path for path, name in documents.items()}  # by path of the image where it is known
        deleted = list(ahead(own.delete, names, storage.READERS))
        kept.update({path: name for (name, path), gone in zip(names.items(), deleted, strict=True) if gone is False})
        _delete(former.documents_path(number))
        _delete(former.record_path(number))
    _delete(former.errors_path)
    return kept


def _remember(job: Job, documents: dict[str, str]) -> None:
    """Records documents that stay when a batch begins again; without stamps, so that their images are done again."""
    by_shard: dict[int, dict[str, str]] = {}
    for path, name in documents.items():
        by_shard.setdefault(job.shard_of(path), {})[path] = name
    for number, some in by_shard.items():
        job.write_record(number, Record(stamps=dict.fromkeys(some, ""), documents=some))


def _delete(path: str) -> None:
    """Deletes a file, or a folder with all that is in it, if there is one."""
    if storage.is_dir(path):
        storage.remove_tree(path)
    elif storage.exists(path):
        storage.remove(path)
