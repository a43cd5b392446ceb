"""`htr import`: an Apache Beam pipeline that makes a dataset of pages, page by page.

A worker writes the images of a page's lines, then a record of the page to `<output>.state`. When all pages are done,
the records become `labels.csv` in the dataset and the table of what was left out beside it. A repeated or interrupted
import does only the pages that are new or have changed, and those that an earlier release has cut in another way.
Workers must see input and output under the same paths.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from components.common import storage
from components.common.records import read_record
from components.example_gen.header import open_table
from components.example_gen.outages import is_of_the_store
from components.example_gen.rejects import Rejected
from components.example_gen.settings import DataConfig
from components.example_gen.table import DatasetError, Table, plain, read_rows
from components.pages.files import (
    ELSEWHERE,
    THERE,
    Claim,
    ImportProblem,
    LostClaim,
    PageFile,
    documents_of,
    find_pages,
    locate_image,
    lost_claims,
    unnamed_images,
)
from components.tools.dataset_folder import COLUMNS, LABELS_FILE, whole_table
from components.tools.page_import.cutting import LeftOut, Result, cut_page
from htr_client import pages
from htr_client.model_facts import MAX_PIXELS
from htr_client.pages.cutting import CUTS
from htr_client.pages.xml_files import MAX_BYTES
from serving import file_lock

LOST_IMAGES = "lost_images"  # why a page is left out whose images another program has deleted meanwhile
_Rows = Sequence[tuple[str, str, str]]  # of a page, see `Result`
_MANIFEST = "manifest.json"
_NAMES = {one.name for one in fields(Result)}
_LEFT_OUT_COLUMNS = ("page", "line", "reason", "detail")


@dataclass(frozen=True)
class Outcome:
    """What an import has come to.

    Attributes:
        pages: XML files of the input.
        new: Number of those that this run read; earlier runs did the others.
        removed: Pages of earlier runs that the input does not have any more; their lines are deleted.
        lines: Rows of the dataset.
        writers: Different values of the column `writer`.
        without_document: Pages with lines whose writer and document are unknown.
        left_out: Lines by reason.
        left_out_pages: Whole pages by reason.
        labels: The table of the dataset.
        left_out_table: Names each page and line that was left out, with the reason.
        unnamed: Images below the input folders that belong to no page.
        unnamed_example: The first of them; empty if there is none.
        elsewhere: Pages with lines whose image lies in another folder, neither beside the XML file nor above it.
        elsewhere_example: The image of the first of them and the page; empty if there is none.
        with_confidence: Lines with a confidence, as a model writes it: texts that perhaps nobody has corrected.
        with_confidence_pages: Pages with such lines.
        with_confidence_example: The first of them; empty if there is none.
    """

    pages: int
    new: int
    removed: int
    lines: int
    writers: int
    without_document: int
    left_out: dict[str, int]
    left_out_pages: dict[str, int]
    labels: str
    left_out_table: str
    unnamed: int
    unnamed_example: str
    elsewhere: int
    elsewhere_example: str
    with_confidence: int
    with_confidence_pages: int
    with_confidence_example: str


@dataclass(frozen=True)
class _Job:
    """What every worker knows."""

    output: str
    max_pixels: int

    @property
    def state(self) -> str:
        return f"{self.output}.state"

    @property
    def labels(self) -> str:
        return os.path.join(self.output, LABELS_FILE)

    @property
    def left_out(self) -> str:
        return f"{self.output}-left-out.csv"

    def record_path(self, page: PageFile) -> str:
        return os.path.join(self.state, f"{hashlib.sha256(page.name.encode()).hexdigest()[:32]}.json")


def import_pages(
    folders: Sequence[str], output: str, beam_args: Sequence[str], *, writer: str = "auto",
    max_pixels: int = MAX_PIXELS, allow_outside: bool = False, overwrite: bool = False,
    started: Callable[[int], None] | None = None,
) -> Outcome:  # fmt: skip
    """Makes a dataset of the pages below folders.

    Args:
        folders: Folders with PAGE or ALTO files and the images that they name.
        output: Folder of the dataset, on this machine or a disk that all workers share.
        beam_args: Pipeline options, which say where it runs.
        writer: Where the column `writer` comes from, see `find_pages`.
        max_pixels: Larger page images are left out.
        allow_outside: Whether images may lie outside of the folders.
        overwrite: Whether to begin again what an earlier run has done.
        started: Called with the number of pages before the first is read.

    Returns:
        The counts.

    Raises:
        ImportProblem: Nothing to do, or an earlier run had another input, or the output is something else or another
            import works on it.
    """
    job = _Job(output, max_pixels)
    files = find_pages(folders, writer, allow_outside)
    with _alone(job):
        _prepare(job, list(folders), overwrite)
        if started is not None:
            started(len(files))
        before = {file.name: storage.stamp(job.record_path(file)) for file in files}
        with beam.Pipeline(options=PipelineOptions(list(beam_args))) as pipeline:
            # Create spreads its elements among the workers.
            _ = pipeline | "Pages" >> beam.Create(files) | "Cut lines" >> beam.ParDo(_CutPage(job))
        # From the records, since not every engine brings results or metrics back.
        new = sum(storage.stamp(job.record_path(file)) != before[file.name] for file in files)
        return _write_tables(job, folders, files, new)


def done_pages(output: str) -> int:
    """How many pages have a record."""
    return len(_records(_Job(output, 0)))


@contextlib.contextmanager
def _alone(job: _Job) -> Iterator[None]:
    """Holds the lock of an output: two imports would delete each other's images and write one table."""
    if (
        not os.path.exists(os.path.join(job.state, _MANIFEST))
        and os.path.lexists(job.output)
        and not (os.path.isdir(job.output) and not os.listdir(job.output))
    ):
        raise ImportProblem(f"{job.output} exists and was not made by htr import. Name a new folder with --output.")
    os.makedirs(job.state, exist_ok=True)
    path = os.path.join(job.state, ".lock")
    held = ImportProblem(
        f"Another htr import works on {job.output} and holds {path}. Wait for it to end, or name another output."
    )
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(file_lock.NoLocks):
            stack.enter_context(file_lock.locked(path, held=held))
        yield


def _prepare(job: _Job, folders: list[str], overwrite: bool) -> None:
    """Begins or resumes an import, or says why it cannot go on."""
    path = os.path.join(job.state, _MANIFEST)
    if os.path.exists(path):
        if overwrite:
            _forget(job)
        elif (before := read_record(path).get("folders")) != folders:
            begun = f"was begun with {', '.join(before)}" if before else f"was begun, but {path} is damaged"
            raise ImportProblem(f"{job.output} {begun}. Name another output, or begin this one again with --overwrite.")
        elif os.path.exists(job.labels) and _digest(job.labels) not in (written := _written(job)) and written:
            raise ImportProblem(
                f"{job.labels} was changed since it was imported, and a repeated import would write it anew. Correct "
                "the XML files instead, or import to another --output; --overwrite discards the changes."
            )
    os.makedirs(job.output, exist_ok=True)
    _write_manifest(job, folders, _written(job))


def _written(job: _Job) -> list[str]:
    """Digests of the table as runs have written it; none before the first."""
    return read_record(os.path.join(job.state, _MANIFEST)).get("labels", [])


def _write_manifest(job: _Job, folders: Sequence[str], written: Sequence[str]) -> None:
    content = {"folders": list(folders), "labels": list(written)}
    storage.write(os.path.join(job.state, _MANIFEST), json.dumps(content).encode())


def _digest(path: str) -> str:
    """Of the table's rows: a spreadsheet that only saves them again may change delimiter, quotes and line ends."""
    with contextlib.suppress(DatasetError):
        table = open_table(path, os.path.dirname(path), "", DataConfig())
        if isinstance(table, Table):
            rows = [table.names, *(row.fields for row in read_rows(table))]
            return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    return hashlib.sha256(storage.read(path)).hexdigest()  # no table any more


def _forget(job: _Job) -> None:
    """Deletes what earlier runs have written, and no other file; the manifest stays until it is replaced."""
    for path in (job.labels, job.left_out):
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
    for record in _records(job):
        _remove_images(job, read_record(record).get("rows", []))
        os.remove(record)


def _records(job: _Job) -> list[str]:
    """Paths of the records of all pages."""
    with os.scandir(job.state) as entries:
        return [entry.path for entry in entries if entry.name.endswith(".json") and entry.name != _MANIFEST]


class _CutPage(beam.DoFn):
    """Does one page, and yields its name."""

    def __init__(self, job: _Job):
        self._job = job

    def process(self, file: PageFile) -> Iterator[str]:
        yield file.name
        path = self._job.record_path(file)
        if record := read_record(path):
            stamps = [storage.stamp(file.path), storage.stamp(record["image"])]
            rows = record["rows"]
            same = all(stamps) and record["stamps"] == stamps and record.get("cuts") == CUTS
            same = same and record.keys() >= _NAMES  # an earlier release has written others
            if same and (record["place"] == THERE or _is_still_found(file, record)):
                # Of a page without rows, whatever was missing or damaged may be there today.
                if rows and not _lost(self._job, rows):
                    return
                owner = record.get("owner")
                if owner and storage.stamp(owner["path"]) == owner["stamp"]:
                    return
            _remove_images(self._job, rows)
        stamp = storage.stamp(file.path)  # before reading: who changes the file meanwhile has it read again
        result = cut_page(file, self._job.output, self._job.max_pixels)
        _write_record(self._job, file, result, [stamp, storage.stamp(result.image)])


def _is_still_found(file: PageFile, record: dict[str, Any]) -> bool:
    """Whether a page whose image did not lie where it says still finds the same one: a better one may have come."""
    try:
        page = pages.read(storage.read(file.path, MAX_BYTES + 1))
        return locate_image(page.image, file) == (record["image"], record["place"])
    except (pages.PageError, Rejected, OSError) as error:
        if is_of_the_store(file.path, error):
            raise
        return False


def _lost(job: _Job, rows: _Rows) -> list[str]:
    """The images of a page's rows that are not there, or that a power cut has emptied."""
    stamps = {image: storage.stamp(os.path.join(job.output, image)) for image, *_ in rows}
    return [image for image, stamp in stamps.items() if not stamp or stamp.startswith("0-")]


def _remove_images(job: _Job, rows: _Rows) -> None:
    """Deletes the images of a page's rows one by one, and leaves alone what others have put beside them."""
    for image, *_ in rows:
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(job.output, image))
    for folder in {os.path.dirname(image) for image, *_ in rows}:
        with contextlib.suppress(OSError):  # not empty, or deleted already
            os.rmdir(os.path.join(job.output, folder))


def _read_record(job: _Job, file: PageFile) -> Result:
    record = json.loads(storage.read(job.record_path(file)))
    record["left_out"] = [LeftOut(**left_out) for left_out in record["left_out"]]
    return Result(**{name: record[name] for name in _NAMES})


def _write_record(job: _Job, file: PageFile, result: Result, stamps: list[str], owner: PageFile | None = None) -> None:
    record: dict[str, Any] = {**asdict(result), "stamps": stamps, "cuts": CUTS}
    if owner is not None:
        record["owner"] = {"path": owner.path, "stamp": storage.stamp(owner.path)}
    storage.write(job.record_path(file), json.dumps(record).encode())


def _leave(job: _Job, lost: LostClaim, file: PageFile, result: Result) -> Result:
    """Deletes the images of a page that does not get its image; of another page's, notes it until a file changes."""
    stamps = json.loads(storage.read(job.record_path(file)))["stamps"]
    _remove_images(job, result.rows)
    left = Result(result.image, result.place, result.document, left_out=[LeftOut("", lost.reason, lost.detail)])
    _write_record(job, file, left, stamps, lost.owner)
    return left


def _remove_gone(job: _Job, files: Sequence[PageFile]) -> int:
    """Deletes records and images of pages that the input does not have any more; returns their number."""
    gone = set(_records(job)) - set(map(job.record_path, files))
    for record in gone:
        _remove_images(job, read_record(record).get("rows", []))
        os.remove(record)
    return len(gone)


def _write_tables(job: _Job, folders: Sequence[str], files: list[PageFile], new: int) -> Outcome:
    """Joins the records, in the order of the pages, to the two tables."""
    claims: list[Claim] = []
    for file in files:
        result = _read_record(job, file)
        if result.image:
            claims.append(Claim(file, result.image, result.place, bool(result.rows), result.geometry, result.document))
    lost, documents = lost_claims(claims), documents_of(claims)
    unnamed = unnamed_images(folders, [claim.image for claim in claims])
    lines, without_document = 0, 0
    elsewhere: list[str] = []
    with_confidence: dict[str, int] = {}
    writers: set[str] = set()
    reasons: Counter[str] = Counter()
    page_reasons: Counter[str] = Counter()

    def note(incoming: str) -> None:
        # A kill may leave either table: both are known.
        known = [_digest(path) for path in (job.labels, incoming) if os.path.exists(path)]
        _write_manifest(job, folders, known)

    labels = whole_table(job.labels, (*COLUMNS, "page", "line"), whole=note)
    with labels as add, whole_table(job.left_out, _LEFT_OUT_COLUMNS) as leave_out:
        for file in files:
            result = _read_record(job, file)
            if loses := lost.get(file):
                # A second file of the same page (PAGE beside ALTO), or one whose own image is missing.
                result = _leave(job, loses, file, result)
            elif gone := _lost(job, result.rows):
                detail = f"{len(gone)} of {len(result.rows)} images of lines are gone since they were cut: {gone[0]}"
                result = Result(left_out=[LeftOut("", LOST_IMAGES, detail)])
            known = file.writer or documents.get(file, "")
            writer = known or file.key
            for image, text, line in result.rows:
                add((image, text, writer, file.name, line))
            for one in result.left_out:
                (reasons if one.line else page_reasons)[one.reason] += 1
                leave_out((file.name, one.line, one.reason, one.detail))
            if result.rows:
                lines += len(result.rows)
                writers.add(writer)
                without_document += not known
                if result.with_confidence:
                    with_confidence[file.name] = result.with_confidence
                if result.place == ELSEWHERE:
                    elsewhere.append(f"{result.image} for {file.name}")
    return Outcome(
        pages=len(files), new=new, removed=_remove_gone(job, files), lines=lines,
        writers=len(writers), without_document=without_document,
        left_out=dict(reasons.most_common()), left_out_pages=dict(page_reasons.most_common()), labels=job.labels,
        left_out_table=job.left_out, unnamed=len(unnamed), unnamed_example=plain(unnamed[0]) if unnamed else "",
        elsewhere=len(elsewhere), elsewhere_example=plain(elsewhere[0]) if elsewhere else "",
        with_confidence=sum(with_confidence.values()), with_confidence_pages=len(with_confidence),
        with_confidence_example=next(iter(with_confidence), ""),
    )  # fmt: skip
