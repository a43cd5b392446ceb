"""Batch transcription: an Apache Beam pipeline that reads any number of images with a pushed model, without a server.

Every worker process loads the model once. Reading and checking of images goes on in threads while the model works.
The same images give the same texts, whatever the engine and the number of workers: shards and the batches within
them follow from the paths alone.
"""

from __future__ import annotations

import functools
import hashlib
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from components.batch_transcriber.shards import BatchError, Image, Job, Record, Shard, plan
from components.common import storage
from htr_client import image_files
from htr_client.decoding import Decoded
from htr_client.errors import ImageError
from serving.version_directory import LANGUAGE_MODEL_FILE

# Enough to hide the latency of an object store; decoding itself is bound by the cores.
_READERS = 8
_loading = threading.Lock()


@dataclass(frozen=True)
class Outcome:
    """What a batch has come to.

    Attributes:
        pictures: number of images that the input holds.
        new: of those, transcribed or tried by this run; earlier runs did the others.
        errors: images that could not be read.
        shards: number of output files.
        example: the first of them.
        errors_path: file that names those images and says what is wrong with them.
    """

    pictures: int
    new: int
    errors: int
    shards: int
    example: str
    errors_path: str


def transcribe(
    folder: str, output: str, model_path: str, beam_args: Sequence[str], *, pictures_per_shard: int = 1000,
    batch_size: int = 64, overwrite: bool = False, best_path: bool = False,
) -> Outcome:  # fmt: skip
    """Transcribes all images below a folder; a repeated or interrupted batch does only what is missing.

    Args:
        folder: of the images; local or in a bucket.
        output: `texts.jsonl` becomes `texts-00000-of-00020.jsonl` and so on; `.csv` likewise. Workers must see the
            same folders under the same names.
        model_path: directory of a SavedModel of this pipeline.
        beam_args: pipeline options, which say where it runs.
        pictures_per_shard: on average. What an interrupted worker loses is at most one shard.
        batch_size: images of one call of the model.
        overwrite: begin again what an earlier run has done.
        best_path: decode without the version's language model.

    Returns:
        The counts.

    Raises:
        BatchError: nothing to do, not a model, or an earlier run had another model or input.
    """
    model = {"path": model_path, "fingerprint": _fingerprint(model_path, best_path)}
    job, shards, count = plan(folder, output, model, pictures_per_shard, overwrite)
    run = uuid.uuid4().hex
    with beam.Pipeline(options=PipelineOptions(list(beam_args))) as pipeline:
        # Create spreads its elements among the workers.
        _ = (
            pipeline
            | "Shards" >> beam.Create(shards)
            | "Transcribe" >> beam.ParDo(_Transcribe(job, model_path, batch_size, best_path, run))
        )
    # From the records, since not every engine brings results or metrics back.
    records = [job.read_record(shard.number) for shard in shards]
    errors = [error for record in records for error in record.errors]
    job.write_errors(errors)
    new = sum(record.new for record in records if record.run == run)
    return Outcome(count, new, len(errors), job.shards, job.shard_path(0), job.errors_path)


def _fingerprint(model_path: str, best_path: bool) -> str:
    """Tells apart what gives other texts, wherever it was copied to.

    It is TensorFlow's own digest of graph and variables, and the language model where it is used.
    """
    try:
        found = hashlib.sha256(storage.read(os.path.join(model_path, "fingerprint.pb")))
    except FileNotFoundError as error:
        raise BatchError(f"{model_path} is no SavedModel: it holds no fingerprint.pb.") from error
    language_model = os.path.join(model_path, LANGUAGE_MODEL_FILE)
    if not best_path and storage.exists(language_model):
        found.update(storage.read(language_model))
    return found.hexdigest()


@functools.lru_cache(maxsize=1)
def _load(model_path: str) -> Any:
    from components.recogniser.model import ExportedModel

    with storage.here(model_path) as folder:
        return ExportedModel(folder)


class _Transcribe(beam.DoFn):
    """Does one shard, and yields its number."""

    def __init__(self, job: Job, model_path: str, batch_size: int, best_path: bool, run: str):
        self._job, self._model_path, self._batch_size, self._run = job, model_path, batch_size, run
        self._best_path = best_path

    def process(self, shard: Shard) -> Iterator[int]:
        yield shard.number
        before = self._job.read_record(shard.number)
        members = self._job.pictures(shard)
        stamps = {picture.path: picture.stamp for picture in members}
        texts = self._job.read_texts(shard.number) if before.stamps else {}
        # A file that could not be opened may be there today; a damaged one stays damaged.
        failed = {error["path"]: error for error in before.errors if error["reason"] != "unreadable"}
        known = {
            path
            for path, stamp in before.stamps.items()
            if stamps.get(path) == stamp and path in (texts.keys() | failed.keys())
        }
        todo = [picture for picture in members if picture.path not in known]
        if stamps == before.stamps and not todo:
            return
        rows, errors = self._read(todo)
        rows += [texts[path] for path in known if path in texts]
        errors += [failed[path] for path in known if path not in texts]
        rows.sort(key=lambda row: row["path"])
        self._job.write_shard(shard.number, rows, Record(stamps, errors, self._run, len(todo)))

    def _read(self, members: list[Image]) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
        rows: list[dict[str, Any]] = []
        errors: list[dict[str, str]] = []
        batches = [members[i : i + self._batch_size] for i in range(0, len(members), self._batch_size)]
        with ThreadPoolExecutor(_READERS) as pool:

            def begin(batch: list[Image]) -> list[Future]:
                return [pool.submit(self._open, picture) for picture in batch]

            following = begin(batches[0]) if batches else []
            for number, batch in enumerate(batches):
                opened = following
                following = begin(batches[number + 1]) if number + 1 < len(batches) else []
                good: list[tuple[Image, bytes]] = []
                for picture, future in zip(batch, opened, strict=True):
                    try:
                        good.append((picture, future.result()))
                    except ImageError as error:
                        errors.append({"path": picture.path, "reason": error.reason, "detail": str(error)})
                for (picture, _), found in zip(good, self._decode([data for _, data in good]), strict=True):
                    if not found.text and found.confidence == 0:  # how the model says that it has no image
                        detail = "The model cannot decode it."
                        errors.append({"path": picture.path, "reason": "refused", "detail": detail})
                    else:
                        row = {"path": picture.path, "text": found.text, "confidence": round(found.confidence, 6)}
                        rows.append(row)
        return rows, errors

    def _open(self, picture: Image) -> bytes:
        path = os.path.join(self._job.folder, picture.path)
        try:
            data = storage.read(path, image_files.MAX_BYTES + 1)
        except OSError as error:
            if storage.is_remote(path) and not isinstance(error, FileNotFoundError):
                raise  # the store fails, not this image
            raise ImageError("unreadable", f"Cannot read {path!r}: {error.strerror or error}") from None
        return image_files.pack(data).data

    def _decode(self, batch: list[bytes]) -> list[Decoded]:
        if not batch:
            return []
        with _loading:  # an engine may run several threads in a process
            model = _load(self._model_path)
        # The last batch of a shard is filled up, so that the graph sees one shape only.
        filled = batch + batch[-1:] * (self._batch_size - len(batch))
        log_probs, frames = model.log_probs(filled)
        decoder = model.decoder(self._best_path)
        return decoder.decode(log_probs[: len(batch)], frames[: len(batch)], model.alphabet)
