"""Batch transcription: an Apache Beam pipeline for any number of images and a pushed model, without a server.

Every worker process loads the model once. Reading and checking of images goes on in threads while the model works.
The same images give the same texts, whatever the engine and the number of workers: shards and the batches within
them follow from the paths alone.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from components.batch_transcriber.shards import Job, Record, Shard, plan
from components.batch_transcriber.transcribing import UNREADABLE, ImageText, Transcriber
from components.batch_transcriber.writing import CHANGED_DOCUMENT, remark, writer_of
from components.common import storage
from components.common.console import console
from components.common.words import counted
from htr_client.errors import ImageError
from htr_client.files import OTHER_FORMATS
from htr_client.output import plain
from htr_client.pages.model import Page

# A page takes as long as many lines; what is lost at a kill takes some minutes again.
_LINES_PER_SHARD, _PAGES_PER_SHARD = 1000, 50
# Times as many images a shard, in an archive that has grown, are told.
_GROWN = 10


@dataclass(frozen=True)
class Outcome:
    """What a batch has come to.

    Attributes:
        images: Number of images that the input holds.
        new: Number of those that this run transcribed or tried; earlier runs did the others.
        errors: Images that could not be read.
        shards: Number of output files of a table.
        example: The first of them, or the folder of documents.
        errors_path: File that names those images and says what is wrong with them.
        pages: Images that are pages.
        lines: Lines of these pages.
        other_formats: Files of formats that are not read, such as PDF, by ending; they count as `errors`.
        incomplete: Pages without lines, and pages with lines without text, too wide for the model or too low, by
            reason; the same file names them. So does it images that may be pages without lines, and were transcribed as
            one line.
        kept: Documents that this batch did not replace or delete because somebody has changed them; the same file names
            them.
        earlier: Images that cannot be opened now, but could in an earlier run, whose results stay; the same file names
            them.
        deleted: Documents that this run deleted, since their images have gone or are damaged now.
        suspicions: Images whose text may be nonsense, by the code of the suspicion; tables name them.
        hidden: Hidden files that have the name of an image, and were left out.
        others: Files that are no images by their names, and were left out; no companions such as XML or CSV.
        other_example: The first of them below the input folder; empty if there is none.
    """

    images: int
    new: int
    errors: int
    shards: int
    example: str
    errors_path: str
    pages: int
    lines: int
    other_formats: dict[str, int]
    incomplete: dict[str, int]
    kept: int
    earlier: int
    deleted: int
    suspicions: dict[str, int]
    hidden: int
    others: int
    other_example: str


def transcribe(
    folder: str, output: str, transcriber: Transcriber, beam_args: Sequence[str], *,
    images_per_shard: int | None = None, overwrite: bool = False, format_: str | None = None,
) -> Outcome:  # fmt: skip
    """Transcribes all images below a folder; a repeated or interrupted batch does only what is missing.

    Args:
        folder: Folder of the images; local or in a bucket.
        output: `texts.jsonl` becomes `texts-00000-of-00020.jsonl` and so on; `.csv` likewise. Else a folder, in which
            each page becomes a file. Workers must see the same folders under the same names.
        transcriber: What transcribes the images.
        beam_args: Pipeline options, which say where it runs.
        images_per_shard: Average number of images in the first run, which fixes how many shards there are; 1,000
            images of lines or 50 that may be pages if None. What an interrupted worker loses is at most one shard.
        overwrite: Whether to begin again what an earlier run has done. Documents that were changed stay all the same.
        format_: Format of documents, as of `htr_client.pages`.

    Returns:
        The counts.

    Raises:
        BatchError: Nothing to do, not a model, an earlier run had another model or input, or another one works on the
            output.
    """
    model = {"path": transcriber.model_path, "fingerprint": transcriber.fingerprint()}
    per_shard = images_per_shard or (_LINES_PER_SHARD if transcriber.kind == "line" else _PAGES_PER_SHARD)
    with contextlib.ExitStack() as alone:
        job, shards, listing = plan(folder, output, model, per_shard, overwrite, transcriber.kind, format_, alone)
        if len(listing.images) > _GROWN * per_shard * job.shards:
            console().print(
                f"{counted(len(listing.images), 'image')} in {counted(job.shards, 'part')}, as many as the first run "
                f"has made: a worker does a part at a time, and a kill loses all of it. --overwrite begins again with "
                f"{-(-len(listing.images) // per_shard):,}.", markup=False,
            )  # fmt: skip
        transcriber = replace(transcriber, kind=job.kind)
        with beam.Pipeline(options=PipelineOptions(list(beam_args))) as pipeline:
            # Create spreads its elements among the workers.
            _ = pipeline | "Shards" >> beam.Create(shards) | "Transcribe" >> beam.ParDo(_Transcribe(job, transcriber))
        # From the records, since not every engine brings results or metrics back.
        records = [job.read_record(shard.number) for shard in shards]
        remarks = [entry for record in records for entry in record.remarks]
        errors = [error for record in records for error in record.errors]
        reasons = Counter(entry["reason"] for entry in remarks)
        kept, earlier = reasons.pop(CHANGED_DOCUMENT, 0), reasons.pop(UNREADABLE, 0)
        job.write_errors(errors + remarks)
        storage.remove(job.list_path)
    return Outcome(
        images=len(listing.images), hidden=listing.hidden, others=len(listing.others),
        other_example=plain(listing.others[0]) if listing.others else "",
        new=sum(record.new for record in records if record.run == job.run), errors=len(errors),
        shards=job.shards, example=job.output if job.has_documents else job.shard_path(0), errors_path=job.errors_path,
        pages=sum(len(record.lines) for record in records), lines=sum(sum(r.lines.values()) for r in records),
        other_formats=_other_formats(error["path"] for error in errors),
        incomplete=dict(reasons), kept=kept, earlier=earlier,
        deleted=sum(record.deleted for record in records if record.run == job.run),
        suspicions=dict(Counter(code for r in records for codes in r.suspicions.values() for code in codes)),
    )  # fmt: skip


def _other_formats(paths: Iterable[str]) -> dict[str, int]:
    counts = Counter(os.path.splitext(path)[1].lower() for path in paths)
    return {ending: counts[ending] for ending in OTHER_FORMATS if ending in counts}


class _Transcribe(beam.DoFn):
    """Does one shard, and yields its number."""

    def __init__(self, job: Job, transcriber: Transcriber):
        self._job, self._transcriber = job, transcriber

    def process(self, shard: Shard) -> Iterator[int]:
        yield shard.number
        before = self._job.read_record(shard.number)
        members = self._job.images(shard)
        stamps = {image.path: image.stamp for image in members}
        writer = writer_of(self._job, shard.number, before, members)
        # A file that could not be opened may be there today, and the limit raised; a damaged one stays damaged.
        again = (UNREADABLE, "too_large")
        failed = {error["path"]: error for error in before.errors if error["reason"] not in again}
        same = {path for path, stamp in before.stamps.items() if stamps.get(path) == stamp}
        kept = [path for path in same if writer.holds(path)]
        still_failed = [path for path in same if path in failed and not writer.holds(path)]
        todo = [image for image in members if image.path not in {*kept, *still_failed}]
        unread = [entry["path"] for entry in before.remarks if entry["reason"] == UNREADABLE]
        if stamps == before.stamps and not todo and not unread:
            return
        record = Record(dict(stamps), errors=[failed[path] for path in still_failed], run=self._job.run, new=len(todo))

        def keep(path: str) -> None:
            writer.keep(path)
            record.remarks.extend(
                entry for entry in before.remarks if entry["path"] == path and entry["reason"] != UNREADABLE
            )
            if path in before.lines:
                record.lines[path] = before.lines[path]
            if path in before.suspicions:
                record.suspicions[path] = before.suspicions[path]

        for path in kept:
            keep(path)
        for image, result in self._transcriber.transcribe(self._job.folder, todo):
            if isinstance(result, ImageError) and result.reason == UNREADABLE and writer.holds(image.path):
                # Its disk may be away, or a right be missing. With the earlier stamp the result is that of the image
                # again when this is back.
                keep(image.path)
                record.stamps[image.path] = before.stamps.get(image.path, "")
                detail = f"{result}; what an earlier run has transcribed stays"
                record.remarks.append({"path": image.path, "reason": UNREADABLE, "detail": detail})
                continue
            not_written = None if isinstance(result, ImageError) else writer.add(image.path, result)
            wrong = not_written or remark(image.path, result)
            if wrong is not None:
                (record.errors if isinstance(result, ImageError) else record.remarks).append(wrong)
            if isinstance(result, Page):
                record.lines[image.path] = len(result.lines)
            if isinstance(result, ImageText) and result.suspicions:
                record.suspicions[image.path] = [suspicion.code for suspicion in result.suspicions]
        documents, remarks, deleted = writer.close()
        record = replace(record, documents=documents, remarks=record.remarks + remarks, deleted=deleted)
        self._job.write_record(shard.number, record)
