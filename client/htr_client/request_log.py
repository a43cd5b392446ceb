"""A sample of what a service asks and what it is answered, on disk, without slowing the service down.

The folder is a dataset: CSV files with the columns `FIELDS`, and the images. `htr drift` compares it with training
data, `htr review` takes from it what a person should look at.
"""

import atexit
import contextlib
import csv
import logging
import os
import queue
import random
import secrets
import threading
import time
from datetime import datetime, timezone
from multiprocessing.util import Finalize
from pathlib import Path
from typing import NamedTuple

from htr_client.headers import suffix
from htr_client.results import rounded

FIELDS = ("filename", "text", "confidence", "model", "model_version", "time", "source", "request_id")

_DAY = 24 * 3600

_logger = logging.getLogger("htr_client")


class LogCounts(NamedTuple):
    """What became of the answers of this process.

    Attributes:
        seen: All answers that were offered.
        written: Image and row are on disk.
        dropped: Chosen, but the queue or the space allowed was full.
        failed: Chosen, but could not be written; the reason is in Python's log.
    """

    seen: int
    written: int
    dropped: int
    failed: int


class _Record(NamedTuple):
    image: bytes
    text: str
    confidence: float
    model: str
    version: int
    moment: float
    source: str
    request_id: str


class RequestLog:
    """Writes a random sample of images with their transcriptions to a folder.

    A thread of its own writes; callers put a record into a bounded queue and never wait. Nothing that goes wrong here
    reaches them: records that find no room are dropped and counted. May be shared by several clients and threads; each
    process writes files of its own, so that processes may share the folder, and new ones every day (UTC).

        log = RequestLog("requests", rate=0.01)
        client = HtrClient("localhost:8500", log=log)
    """

    def __init__(
        self, folder: str | os.PathLike[str], rate: float = 0.01, *, queue_size: int = 256, max_bytes: int = 2**30
    ) -> None:
        """Keeps the settings; folder and files are made by the first record.

        Args:
            folder: Where the log goes; files that it makes are readable by their owner only.
            rate: Share of the answers that is logged, 0 to 1.
            queue_size: Records that may wait for the disk.
            max_bytes: Room for the images of one process in a day (UTC); what comes after that is dropped, which
                Python's log tells once a day, as it does for a queue that is full.

        Raises:
            ValueError: When a setting is impossible.
        """
        if not 0 <= rate <= 1 or queue_size < 1 or max_bytes < 0:
            raise ValueError("rate is between 0 and 1, queue_size positive, max_bytes not negative")
        self.folder = Path(folder)
        self.rate = rate
        self._queue_size = queue_size
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._reset()
        atexit.register(self.close)

    def _reset(self) -> None:
        """Begins anew, as a process must that was forked from another: threads and locks do not survive that."""
        self._process = os.getpid()
        # When the handler of a signal raises, as the advised one does, queue.Queue can keep its lock taken, and close
        # would wait for it for ever; SimpleQueue cannot.
        self._queue: queue.SimpleQueue[_Record | None] = queue.SimpleQueue()
        self._writing: threading.Lock | None = None  # held by the thread as long as it lives
        self._ending: list[threading.Lock] = []  # those of threads that write what was waiting when the log was closed
        self._at_end: Finalize | None = None
        self._random = random.Random(secrets.randbits(64))
        self._seen = self._written = self._dropped = self._failed = self._bytes = 0
        self._day = 0.0  # of which the bytes are
        self._told: set[str] = set()  # why records were dropped on that day, as far as it has been said

    def offer(
        self,
        image: bytes,
        text: str,
        confidence: float,
        model: str,
        version: int,
        *,
        source: str | os.PathLike[str] = "",
        request_id: str = "",
    ) -> None:
        """Logs an answer, if chance chooses it; never waits and never fails.

        Args:
            image: Image as it was sent, PNG or JPEG.
            text: The transcription.
            confidence: Probability that the text is right.
            model: Name of the served model.
            version: Version that answered.
            source: Name or path of the original.
            request_id: Identifier of the request that asked, as other logs name it.
        """
        if self._process != os.getpid():
            self._lock = threading.Lock()
            self._reset()
        with self._lock:
            self._seen += 1
            if self._random.random() >= self.rate:
                return
            moment = time.time()
            if moment // _DAY != self._day:
                self._day, self._bytes, self._told = moment // _DAY, 0, set()
            if self._bytes + len(image) > self._max_bytes:
                self._drop(f"max_bytes={self._max_bytes} is used up until midnight UTC")
                return
            try:
                record = _Record(image, text, confidence, model, version, moment, str(source), request_id)
                if self._writing is None:
                    writing = threading.Lock()
                    writing.acquire()
                    work = (self._queue, writing)
                    threading.Thread(target=self._write, args=work, name="htr-log", daemon=True).start()
                    self._writing = writing
                    # Processes of multiprocessing end without atexit, and forget at their start what was asked before.
                    self._at_end = Finalize(None, self.close, exitpriority=10)
                if self._queue.qsize() >= self._queue_size:
                    self._drop(f"{self._queue_size} records wait for the disk already")
                    return
                self._queue.put(record)
                self._bytes += len(image)
            except Exception as error:  # the system may allow no more threads
                self._fail(error)

    @property
    def counts(self) -> LogCounts:
        """What became of the answers so far; chosen ones that wait for the disk are not in it yet."""
        return LogCounts(self._seen, self._written, self._dropped, self._failed)

    def close(self) -> None:
        """Waits until everything is written; a later record begins new files.

        Done at the end of the process too, unless a signal or `os._exit` ends it. The handler of a signal must not call
        this, since its thread may hold the lock that this waits for: let it call `sys.exit`.
        """
        if self._process != os.getpid():
            return  # forked, and has logged nothing: the records are the parent's, which may have held the lock
        with self._lock:
            if self._writing is not None:
                # Remembered, since a signal may end the wait below, and the log is closed again at the end. Python's
                # Thread.join does not wait any more after that (3.10).
                self._ending = [writing for writing in (*self._ending, self._writing) if writing.locked()]
                self._queue.put(None)
            self._writing, self._queue = None, queue.SimpleQueue()
            ending, at_end = self._ending, self._at_end
        for writing in ending:
            with writing:
                pass
        if at_end is not None:
            at_end.cancel()

    def _write(self, records: "queue.SimpleQueue[_Record | None]", writing: threading.Lock) -> None:
        name, number, day = "", 0, -1.0
        try:
            while (record := records.get()) is not None:
                if record.moment // _DAY != day:  # a table's age is that of its images, and both may be deleted by it
                    day, number, began = record.moment // _DAY, 0, datetime.fromtimestamp(record.moment, timezone.utc)
                    # The images' names begin like the table's, so that processes never write over each other's.
                    name = f"requests-{began:%Y%m%dT%H%M%S}-{os.getpid()}-{secrets.token_hex(3)}"
                number += 1
                try:
                    self._append(name, number, record)
                    self._written += 1
                except Exception as error:  # whatever is wrong with a record, others follow it
                    self._fail(error)
        finally:
            writing.release()

    def _drop(self, why: str) -> None:
        self._dropped += 1
        if why not in self._told:  # a queue that was full once does not hide that the room is used up
            self._told.add(why)
            _logger.warning("requests are left out of the log in %s: %s", self.folder, why)

    def _fail(self, error: Exception) -> None:
        if not self._failed:
            _logger.warning("requests cannot be logged in %s: %s", self.folder, error)
        self._failed += 1

    def _append(self, name: str, number: int, record: _Record) -> None:
        image, table = Path("images") / f"{name}-{number:06d}.{suffix(record.image)}", self.folder / f"{name}.csv"
        (self.folder / "images").mkdir(mode=0o700, parents=True, exist_ok=True)
        written = table.stat().st_size if table.exists() else 0
        try:
            with open(self.folder / image, "xb", opener=_private) as file:
                file.write(record.image)
            # The row comes last: a table never names an image that is not there yet.
            self._add_row(table, image, record)
        except Exception:
            # A part of a row, as a full disk leaves it, would become one row with the next.
            with contextlib.suppress(OSError):
                os.truncate(table, written)
            (self.folder / image).unlink(missing_ok=True)
            raise

    def _add_row(self, path: Path, image: Path, record: _Record) -> None:
        moment = datetime.fromtimestamp(record.moment, timezone.utc).isoformat(timespec="seconds")
        # A path need not be UTF-8, but the table is.
        source = record.source.encode(errors="backslashreplace").decode()
        read = (record.text, rounded(record.confidence), record.model, record.version)
        row = (image.as_posix(), *read, moment, source, record.request_id)
        with open(path, "a", encoding="utf-8", newline="", opener=_private) as table:
            writer = csv.writer(table)
            if table.tell() == 0:
                writer.writerow(FIELDS)
            writer.writerow(row)


def _private(path: str, flags: int) -> int:
    """Opens a file for its owner only: handwriting is personal."""
    return os.open(path, flags, 0o600)
