"""Dynamic batching with TensorFlow Serving's parameters and failures.

Calls for the same version, inputs and outputs are queued, joined along the first dimension and run as one.
As in TensorFlow Serving a batch starts when it is full or its first call has waited `batch_timeout_micros`,
and a queue takes at most `max_enqueued_batches`. Better than there: a call that nobody waits for any more is
dropped before it costs anything, calls of different shapes never meet, and when a batch fails each of its
calls is tried alone, so that one bad image fails alone.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any

import numpy as np

from htr_client.cores import usable_cores
from serving.metrics import Metrics
from serving.status import Code, ServingError, deadline_exceeded, from_exception, invalid

RunFunction = Callable[[Mapping[str, np.ndarray], Sequence[str], "float | None"], list[np.ndarray]]

# After these the calls of a failed batch are not tried alone: it would fail again, or make things worse.
_NO_RETRY = {Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE}


@dataclass(frozen=True)
class BatchingOptions:
    """TensorFlow Serving's BatchingParameters with its defaults."""

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = 0
    allowed_batch_sizes: tuple[int, ...] = ()
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = 0

    @classmethod
    def from_proto(cls, proto: Any) -> BatchingOptions:
        """Reads and checks a BatchingParameters message.

        Args:
            proto: The message.

        Returns:
            The options.

        Raises:
            ServingError: The values contradict each other.
        """
        known: dict[str, Any] = {
            name: getattr(proto, name).value
            for name in (
                "max_batch_size",
                "batch_timeout_micros",
                "max_enqueued_batches",
                "num_batch_threads",
                "enable_large_batch_splitting",
                "max_execution_batch_size",
            )
            if proto.HasField(name)
        }
        options = cls(allowed_batch_sizes=tuple(proto.allowed_batch_sizes), **known)
        options.check()
        return options

    @property
    def execution_size(self) -> int:
        """The largest batch that is run."""
        if self.enable_large_batch_splitting and self.max_execution_batch_size:
            return self.max_execution_batch_size
        return self.max_batch_size

    def check(self) -> None:
        """Refuses values that contradict each other.

        Raises:
            ServingError: They do.
        """
        for name in ("max_batch_size", "max_enqueued_batches"):
            if getattr(self, name) < 1:
                raise invalid(f"{name} must be positive; was {getattr(self, name)}")
        for name in ("batch_timeout_micros", "num_batch_threads", "max_execution_batch_size"):
            if getattr(self, name) < 0:
                raise invalid(f"{name} must be non-negative; was {getattr(self, name)}")
        if self.execution_size > self.max_batch_size:
            excess = f"{self.execution_size} > {self.max_batch_size}"
            raise invalid(f"max_execution_batch_size must not exceed max_batch_size; {excess}")
        sizes = self.allowed_batch_sizes
        if not sizes:
            return
        if list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
            raise invalid("allowed_batch_sizes entries must be monotonically increasing")
        if sizes[-1] != self.execution_size:
            raise invalid(
                f"Last entry in allowed_batch_sizes must match max_batch_size; last entry was {sizes[-1]}; "
                f"expected {self.execution_size}"
            )


class _Task:
    """One call, or one slice of a call that was split."""

    __slots__ = ("abandoned", "deadline", "enqueued", "feeds", "future", "size")

    def __init__(
        self, feeds: Mapping[str, np.ndarray], size: int, deadline: float | None, abandoned: Callable[[], bool]
    ) -> None:
        self.feeds = feeds
        self.size = size
        self.deadline = deadline
        self.abandoned = abandoned
        self.enqueued = time.monotonic()
        self.future: Future[list[np.ndarray]] = Future()

    def fail(self, error: ServingError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class _Batch:
    __slots__ = ("size", "started", "tasks")

    def __init__(self) -> None:
        self.tasks: list[_Task] = []
        self.size = 0
        self.started = time.monotonic()


class _Queue:
    """The batches of one (version, inputs, outputs, shapes); the last one is open."""

    def __init__(self, run: RunFunction, fetches: tuple[str, ...]) -> None:
        self.run = run
        self.fetches = fetches
        self.batches: deque[_Batch] = deque()


def call_size(feeds: Mapping[str, np.ndarray]) -> int:
    """Returns the number of rows of a call.

    Raises:
        ServingError: The inputs have no common first dimension.
    """
    if not feeds:
        raise invalid("Batching Run() must have at least one input tensor")
    size = -1
    for array in feeds.values():
        if array.ndim == 0:
            raise invalid("Batching Run() input tensors must have at least one dimension")
        if size not in (-1, array.shape[0]):
            raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
        size = array.shape[0]
    return size


class Batcher:
    """Joins calls into batches and runs them on its own threads."""

    def __init__(self, options: BatchingOptions, metrics: Metrics) -> None:
        options.check()
        self.options = options
        self._metrics = metrics
        self._queues: dict[Hashable, _Queue] = {}
        self._changed = threading.Condition()
        self._stopped = False
        threads = options.num_batch_threads or usable_cores()
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{index}", daemon=True) for index in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def run(
        self,
        owner: Hashable,
        run: RunFunction,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        deadline: float | None,
        abandoned: Callable[[], bool],
    ) -> list[np.ndarray]:
        """Runs a call as part of a batch and waits for its share of the result.

        Args:
            owner: What only calls of the same version share.
            run: Runs a batch on that version.
            feeds: Tensor name to array.
            fetches: Tensor names to return.
            deadline: `time.monotonic()` value after which nobody waits any more.
            abandoned: Tells whether the caller has gone.

        Returns:
            The fetched arrays of this call alone.

        Raises:
            ServingError: The queue is full, the call too large or expired, or the run failed.
        """
        futures = self.submit(owner, run, feeds, fetches, deadline, abandoned)
        return self.join([self._wait(future, deadline) for future in futures], fetches)

    def submit(
        self,
        owner: Hashable,
        run: RunFunction,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        deadline: float | None,
        abandoned: Callable[[], bool],
    ) -> list[Future[list[np.ndarray]]]:
        """Queues a call as `run` does, without waiting.

        Args:
            owner: What only calls of the same version share.
            run: Runs a batch on that version.
            feeds: Tensor name to array.
            fetches: Tensor names to return.
            deadline: `time.monotonic()` value after which nobody waits any more.
            abandoned: Tells whether the caller has gone.

        Returns:
            A future for each piece the call was split into, nearly always one; `join` makes their results one.

        Raises:
            ServingError: The queue is full or the call too large.
        """
        size = call_size(feeds)
        self._metrics.input_size.add(size)
        names = tuple(sorted(set(fetches)))
        shapes = tuple((name, array.dtype.str, array.shape[1:]) for name, array in sorted(feeds.items()))
        key = (owner, names, shapes)
        limit = self.options.max_batch_size
        if size > limit and not self.options.enable_large_batch_splitting:
            raise invalid(f"Task size {size} is larger than maximum input batch size {limit}")
        tasks = [_Task(piece, rows, deadline, abandoned) for piece, rows in self._split(feeds, size)]
        with self._changed:
            if self._stopped:
                raise ServingError(Code.UNAVAILABLE, "the server is shutting down")
            queue = self._queues.get(key)
            if queue is None:
                queue = self._queues[key] = _Queue(run, names)
            self._enqueue(queue, tasks)
        return [task.future for task in tasks]

    @staticmethod
    def join(results: Sequence[list[np.ndarray]], fetches: Sequence[str]) -> list[np.ndarray]:
        """Puts the results of a call's pieces together, in the order of `fetches`."""
        names = sorted(set(fetches))
        order = [names.index(name) for name in fetches]
        if len(results) == 1:
            return [results[0][index] for index in order]
        return [np.concatenate([result[index] for result in results]) for index in order]

    def _split(self, feeds: Mapping[str, np.ndarray], size: int) -> list[tuple[Mapping[str, np.ndarray], int]]:
        step = self.options.execution_size
        if size <= step:
            return [(feeds, size)]
        return [
            ({name: array[start : start + step] for name, array in feeds.items()}, min(step, size - start))
            for start in range(0, size, step)
        ]

    def _enqueue(self, queue: _Queue, tasks: list[_Task]) -> None:
        limit = self.options.execution_size
        batches = queue.batches
        free = limit - batches[-1].size if batches else 0
        needed = len(tasks) - (1 if tasks[0].size <= free else 0)
        if len(batches) + needed > self.options.max_enqueued_batches:
            raise ServingError(
                Code.UNAVAILABLE,
                "The batch scheduling queue to which this task was submitted is full; currently "
                f"{len(batches)} batches enqueued and max_enqueued_batches is {self.options.max_enqueued_batches}",
            )
        for task in tasks:
            opened = not batches or task.size > limit - batches[-1].size
            if opened:
                batches.append(_Batch())
            batches[-1].tasks.append(task)
            batches[-1].size += task.size
            # A thread has to look again only when there is a new batch to wait for, or a full one to run.
            if opened or batches[-1].size >= limit:
                self._changed.notify()

    @staticmethod
    def _wait(future: Future[list[np.ndarray]], deadline: float | None) -> list[np.ndarray]:
        try:
            failure = future.exception(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except FutureTimeout as error:
            raise deadline_exceeded() from error
        if failure is not None:
            raise from_exception(failure)  # the future's own would hold this frame, and with it the future
        return future.result()

    # -- the batch threads -----------------------------------------------------------------------------------

    def _take(self) -> tuple[_Queue, _Batch] | None:
        """Waits for the oldest batch that may start; None when stopped."""
        timeout = self.options.batch_timeout_micros / 1e6
        with self._changed:
            while True:
                now = time.monotonic()
                best: tuple[float, Hashable, _Queue] | None = None
                wait: float | None = None
                for key, queue in self._queues.items():
                    if not queue.batches:
                        continue
                    first = queue.batches[0]
                    open_batch = len(queue.batches) == 1 and first.size < self.options.execution_size
                    left = first.started + timeout - now if open_batch and not self._stopped else 0.0
                    if left <= 0:
                        if best is None or first.started < best[0]:
                            best = (first.started, key, queue)
                    else:
                        wait = left if wait is None else min(wait, left)
                if best is not None:
                    queue = best[2]
                    batch = queue.batches.popleft()
                    if not queue.batches:
                        del self._queues[best[1]]
                    if self._queues:
                        self._changed.notify()  # another thread watches over the rest meanwhile
                    return queue, batch
                if self._stopped:
                    return None
                self._changed.wait(wait)

    def _work(self) -> None:
        while True:
            taken = self._take()
            if taken is None:
                return
            queue, batch = taken
            try:
                self._process(queue, batch)
            except BaseException as error:  # a batch thread must survive, and nobody may wait for ever
                for task in batch.tasks:
                    task.fail(from_exception(error))

    def _process(self, queue: _Queue, batch: _Batch) -> None:
        now = time.monotonic()
        tasks = []
        for task in batch.tasks:
            # TensorFlow Serving has this label, and leaves it empty whatever the configuration says.
            self._metrics.queuing_latency.add((now - task.enqueued) * 1e6, "")
            if task.deadline is not None and task.deadline <= now:
                text = "Run() timeout exceeded while waiting in batching queue"
                task.fail(ServingError(Code.RESOURCE_EXHAUSTED, text))
            elif task.abandoned():
                task.fail(ServingError(Code.CANCELLED, "the caller has gone"))
            else:
                tasks.append(task)
        if not tasks:
            return
        try:
            self._run(queue, tasks)
        except Exception as error:
            failure = from_exception(error)
            if len(tasks) == 1 or failure.code in _NO_RETRY:
                for task in tasks:
                    task.fail(failure)
                return
            for task in tasks:
                try:
                    self._run(queue, [task])
                except Exception as single:
                    task.fail(from_exception(single))

    def _run(self, queue: _Queue, tasks: list[_Task]) -> None:
        rows = sum(task.size for task in tasks)
        padded = next((size for size in self.options.allowed_batch_sizes if size >= rows), rows)
        feeds: dict[str, np.ndarray] = {}
        for name in tasks[0].feeds:
            parts = [task.feeds[name] for task in tasks]
            if padded > rows and len(parts[-1]):
                parts += [parts[-1][:1]] * (padded - rows)
            feeds[name] = parts[0] if len(parts) == 1 else np.concatenate(parts)
        total = len(next(iter(feeds.values())))
        deadlines = [task.deadline for task in tasks]
        # As TensorFlow Serving does, the batch may run as long as its most patient call allows.
        deadline = None if None in deadlines else max(value for value in deadlines if value is not None)
        self._metrics.wrapped_run_count.add(1)
        self._metrics.batch_size.add(total)
        outputs = queue.run(feeds, queue.fetches, deadline)
        for output in outputs:
            if output.ndim == 0:
                raise ServingError(Code.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
            if len(output) != total:
                raise ServingError(
                    Code.FAILED_PRECONDITION,
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
                    "input tensors",
                )
        start = 0
        for task in tasks:
            end = start + task.size
            if not task.future.done():
                task.future.set_result([output[start:end] for output in outputs])
            start = end

    def stop(self) -> None:
        """Finishes what is queued, then ends the threads."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=30)
