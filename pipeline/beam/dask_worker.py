"""What a task on a Dask worker does for `DaskRunner`: a bundle of a fused stage, and the shuffle between stages.

Bundles run in Beam's own harness for Python, as those of the local runner do, so that there is one implementation of
DoFns, combiners, side inputs and sources. PCollections are encoded elements: chunks of bytes, each with whole elements.
"""

from __future__ import annotations

import itertools
import random
import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from apache_beam.coders.coder_impl import create_InputStream, create_OutputStream
from apache_beam.options.value_provider import RuntimeValueProvider
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner.execution import (
    BundleContextManager,
    FnApiRunnerExecutionContext,
    GroupingBuffer,
    ListBuffer,
)
from apache_beam.runners.portability.fn_api_runner.fn_runner import BundleManager, ExtendedProvisionInfo
from apache_beam.runners.portability.fn_api_runner.translations import Stage, split_buffer_id
from apache_beam.runners.portability.fn_api_runner.worker_handlers import StateServicer, WorkerHandlerManager

Chunks = list[bytes]
# Outputs of a bundle up to this many bytes go to the driver: losing a worker does not lose them, and it need not ask
# workers to shuffle them. Most stages of TFX's pipelines write less.
SMALL = 1 << 18


@dataclass(frozen=True)
class Job:
    """What all tasks of a pipeline share.

    Attributes:
        id: Unique name.
        components: Beam's serialised Components.
        safe_coders: For each coder, one that needs no classes of the user's.
        channel_coders: Coder of each PCollection between stages.
    """

    id: str
    components: bytes
    safe_coders: dict[str, str]
    channel_coders: dict[str, str]


@dataclass(frozen=True)
class StageTask:
    """A stage of fused transforms, as its bundles need it.

    Attributes:
        name: Name, unique in the pipeline.
        environment: Beam's name of it.
        transforms: Serialised PTransforms.
        outputs: Buffer that each writing transform fills.
        partitions: Number of partitions of what is grouped by key after it.
    """

    name: str
    environment: str | None
    transforms: list[bytes]
    outputs: dict[str, bytes]
    partitions: int


@dataclass(frozen=True)
class SideInput:
    """A PCollection that a transform sees whole.

    Attributes:
        transform: Name of the reading transform.
        tag: Its name for the side input.
        buffer: Buffer with its elements.
        access_pattern: Beam's serialised FunctionSpec.
        parts: The elements; futures of them before the task starts.
    """

    transform: str
    tag: str
    buffer: bytes
    access_pattern: bytes
    parts: list[Any]


@dataclass(frozen=True)
class Written:
    """What a bundle wrote.

    Attributes:
        outputs: For each buffer its partitions: one, or as many as the stage has where it is large and grouped next.
        metrics: Serialised MonitoringInfos.
    """

    outputs: dict[bytes, list[Chunks]]
    metrics: list[bytes]


class Harness:
    """Beam's classes for one pipeline; the driver, too, uses it to group and to split what is small."""

    def __init__(self, job: Job):
        """Makes a harness.

        Args:
            job: The pipeline.
        """
        components = beam_runner_api_pb2.Components.FromString(job.components)
        self.job = job
        self._workers = WorkerHandlerManager(components.environments, ExtendedProvisionInfo())
        self._workers.state_servicer = self._state = _State()
        self._context = FnApiRunnerExecutionContext(
            [], self._workers, components, job.safe_coders, job.channel_coders, num_workers=1
        )
        self._side_inputs_of = ""

    def close(self) -> None:
        """Tears the DoFns down."""
        self._workers.close_all()

    def process(self, task: StageTask, inputs: Mapping[str, Chunks], side_inputs: Sequence[SideInput]) -> Written:
        """Runs one bundle.

        Args:
            task: The stage.
            inputs: Elements for each reading transform.
            side_inputs: Those of the stage's transforms.

        Returns:
            The outputs, each in one partition.

        Raises:
            RuntimeError: A transform has failed; the message holds its traceback.
            NotImplementedError: A transform wants to go on with an element later.
        """
        if self._side_inputs_of != task.name:
            self._state.forget()
            self._side_inputs_of = task.name
            for side in side_inputs:
                pattern = beam_runner_api_pb2.FunctionSpec.FromString(side.access_pattern)
                self._context.pcoll_buffers = {side.buffer: list(itertools.chain.from_iterable(side.parts))}
                self._context.commit_side_inputs_to_state({(side.transform, side.tag): (side.buffer, pattern)})
        transforms = [beam_runner_api_pb2.PTransform.FromString(data) for data in task.transforms]
        manager = self._context.bundle_manager_for(Stage(task.name, transforms, environment=task.environment))
        self._workers.register_process_bundle_descriptor(manager.process_bundle_descriptor)
        buffers = {buffer: ListBuffer(None) for buffer in task.outputs.values()}
        self._context.pcoll_buffers = buffers
        response, _ = BundleManager(manager).process_bundle(inputs, task.outputs, {}, {})
        for delayed in response.process_bundle.residual_roots:
            raise NotImplementedError(
                f"DaskRunner: {delayed.application.transform_id} stops before the end of an element to go on later, "
                "as unbounded sources do. Use another runner for this pipeline."
            )
        metrics = [info.SerializeToString() for info in response.process_bundle.monitoring_infos]
        return Written({name: [[chunk for chunk in buffer if chunk]] for name, buffer in buffers.items()}, metrics)

    def grouped(self, buffer: bytes, chunks: Iterable[bytes], partitions: int) -> list[Chunks]:
        """Elements of a GroupByKey's input, grouped; keys are dealt out in turn.

        Args:
            buffer: Name of the GroupByKey's buffer.
            chunks: All elements of the keys in question.
            partitions: How many are wanted.

        Returns:
            The partitions; some may be empty.
        """
        grouping = self._grouping(buffer)
        for chunk in chunks:
            grouping.append(chunk)
        return [_filled(part) for part in grouping.partition(partitions)]

    def split(self, buffer: bytes, chunks: Iterable[bytes], partitions: int) -> list[Chunks]:
        """Elements of a GroupByKey's input by their key: the same key always has the same place.

        Args:
            buffer: Name of the GroupByKey's buffer.
            chunks: Elements.
            partitions: How many are wanted.

        Returns:
            The partitions; some may be empty.
        """
        coder = self._context.pipeline_context.coders[self._coder_before_grouping(buffer)]
        elements, keys = coder.get_impl(), coder.key_coder().get_impl()
        streams = [create_OutputStream() for _ in range(partitions)]
        for chunk in chunks:
            stream = create_InputStream(chunk)
            while stream.size() > 0:
                element = elements.decode_from_stream(stream, True)
                place = zlib.crc32(keys.encode(element.value[0])) % partitions
                elements.encode_to_stream(element, streams[place], True)
        return [_filled([stream.get()]) for stream in streams]

    def spread(self, coder: str, chunks: Iterable[bytes], partitions: int) -> list[Chunks]:
        """Elements of a PCollection, dealt out in turn.

        Args:
            coder: Coder of the elements.
            chunks: Elements.
            partitions: How many are wanted.

        Returns:
            The partitions; some may be empty.
        """
        elements = ListBuffer(self._context.pipeline_context.coders[self._safe(coder)].get_impl())
        for chunk in chunks:
            elements.append(chunk)
        return [_filled(part) for part in elements.partition(partitions)]

    def _grouping(self, buffer: bytes) -> GroupingBuffer:
        self._context.pcoll_buffers = {}
        return BundleContextManager(self._context, Stage("", [], environment=""), 1, ()).get_buffer(buffer, "")

    def _coder_before_grouping(self, buffer: bytes) -> str:
        transform = self._context.pipeline_components.transforms[split_buffer_id(buffer)[1]]
        (collection,) = transform.inputs.values()
        return self._safe(self.job.channel_coders[collection])

    def _safe(self, coder: str) -> str:
        return self.job.safe_coders.get(coder, coder)


class _State(StateServicer):
    """Side inputs of one stage at a time."""

    def forget(self) -> None:
        with self._lock:
            self._state.clear()


_harness: Harness | None = None
# Beam's harness takes one bundle at a time, and so do random numbers that come again.
_one_at_a_time = threading.Lock()


def _harness_of(job: Job) -> Harness:
    global _harness
    if _harness is None or _harness.job.id != job.id:
        if _harness is not None:
            _harness.close()
        RuntimeValueProvider.set_runtime_options({})
        _harness = Harness(job)
    return _harness


def run_bundle(
    job: Job, task: StageTask, inputs: dict[str, list[Chunks]], side_inputs: list[SideInput], number: int
) -> Written:
    """Task: one bundle, from `setup` where this process has not run the stage yet, to `finish_bundle`.

    Random numbers begin the same when the task runs again, since a worker that held its result was lost: other tasks
    may have read some of the first result's partitions.

    Args:
        job: The pipeline.
        task: The stage.
        inputs: Partitions for each reading transform.
        side_inputs: Those of the stage's transforms.
        number: Number of this bundle in its stage.

    Returns:
        What it wrote.
    """
    with _one_at_a_time:
        seed = zlib.crc32(f"{job.id} {task.name} {number}".encode())
        random.seed(seed)
        np.random.seed(seed)
        harness = _harness_of(job)
        chunks = {name: list(itertools.chain.from_iterable(parts)) for name, parts in inputs.items()}
        written = harness.process(task, chunks, side_inputs)
        for buffer, (part,) in written.outputs.items():
            if split_buffer_id(buffer)[0] == "group" and sum(map(len, part)) > SMALL:
                written.outputs[buffer] = harness.split(buffer, part, task.partitions)
        return written


def summary(written: Written) -> tuple[dict[bytes, Chunks | list[int]], list[bytes]]:
    """Task: what the driver needs to know of a bundle's result.

    Args:
        written: The result.

    Returns:
        Each output itself where it is small, else the sizes of its partitions in bytes; and the metrics.
    """
    found: dict[bytes, Chunks | list[int]] = {}
    for buffer, parts in written.outputs.items():
        sizes = [sum(map(len, part)) for part in parts]
        found[buffer] = parts[0] if len(parts) == 1 and sizes[0] <= SMALL else sizes
    return found, written.metrics


def pick(written: Written, buffer: bytes, place: int) -> Chunks:
    """Task: one partition of a bundle's result."""
    return written.outputs[buffer][place]


def group(job: Job, buffer: bytes, parts: list[Chunks]) -> Chunks:
    """Task: what all bundles wrote for one partition of a GroupByKey, grouped."""
    with _one_at_a_time:
        return _harness_of(job).grouped(buffer, itertools.chain.from_iterable(parts), 1)[0]


def spread(job: Job, coder: str, part: Chunks, partitions: int) -> list[Chunks]:
    """Task: a partition that is split, since there are fewer than workers."""
    with _one_at_a_time:
        return _harness_of(job).spread(coder, part, partitions)


def take(parts: list[Chunks], place: int) -> Chunks:
    """Task: one of `spread`'s results."""
    return parts[place]


def same(value: Any) -> Any:
    """Task: a value that other tasks share."""
    return value


def close(job_id: str) -> None:
    """Tears down what a process holds of a pipeline that has ended, unless a bundle still runs there."""
    global _harness
    if _one_at_a_time.acquire(blocking=False):
        try:
            if _harness is not None and _harness.job.id == job_id:
                _harness.close()
                _harness = None
        finally:
            _one_at_a_time.release()


def _filled(chunks: Iterable[bytes]) -> Chunks:
    return [chunk for chunk in chunks if chunk]
