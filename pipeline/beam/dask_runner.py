"""Runs Beam pipelines on a Dask cluster: Beam's local runner, with the bundles of its stages on Dask's workers.

Beam's own DaskRunner (2.74 to 2.77) gives every output of a transform to each reader, loses what `finish_bundle` emits,
and takes no side inputs from other workers. This one leaves the translation of the pipeline, fusion of its transforms
and combiner lifting to FnApiRunner, and the work in a bundle to Beam's harness for Python.

A stage starts when what it reads is complete. Its input is split into partitions, one task each. Large outputs stay on
the workers and go from there to the tasks that read them; small ones are kept here. Dask runs tasks of a lost worker
again, and those before them whose results were lost with it; whatever reads a result then sees the same elements.
"""

from __future__ import annotations

import itertools
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import distributed
from apache_beam.metrics.monitoring_infos import consolidate
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pipeline import AppliedPTransform, PTransformOverride
from apache_beam.portability.api import beam_fn_api_pb2, beam_runner_api_pb2, metrics_pb2
from apache_beam.runners.dask.dask_runner import DaskOptions
from apache_beam.runners.portability.fn_api_runner import translations
from apache_beam.runners.portability.fn_api_runner.execution import ENCODED_IMPULSE_VALUE, SAFE_WINDOW_FNS
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner, RunnerResult
from apache_beam.runners.runner import PipelineState
from apache_beam.runners.worker import bundle_processor

from pipeline.beam import dask_worker as worker

# Partitions for each thread of the workers: small enough tasks to keep all of them busy to the end.
_PARTITIONS = 4
_WAIT = 60  # seconds, for the first worker
# Elements of one partition: here, or a future of them.
_Part = Any


class DaskRunner(FnApiRunner):
    """Runs bounded pipelines without state or timers; its options are those of Beam's DaskRunner."""

    def run_pipeline(self, pipeline: Any, options: PipelineOptions) -> RunnerResult:
        """As of FnApiRunner.

        Args:
            pipeline: The pipeline.
            options: Options with those of Beam's DaskOptions.

        Returns:
            The result, when the pipeline is done.

        Raises:
            RuntimeError: A transform has failed, or no worker came.
            NotImplementedError: A transform needs what this runner lacks.
            OSError: No scheduler is at the address.
        """
        self._client_options = options.view_as(DaskOptions).get_all_options(drop_default=True, current_only=True)
        self._partitions = self._client_options.pop("npartitions", None)
        if self._client_options.pop("partition_size", None):
            raise NotImplementedError("DaskRunner: --dask_partition_size; use --dask_npartitions.")
        pipeline.replace_all([_ReshuffleInTurn()])
        return super().run_pipeline(pipeline, options)

    def _check_requirements(self, pipeline_proto: beam_runner_api_pb2.Pipeline) -> None:
        components = pipeline_proto.components
        for name, transform in components.transforms.items():
            lacking = None
            if transform.spec.urn in translations.PAR_DO_URNS:
                payload = beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload)
                if payload.state_specs or payload.timer_family_specs:
                    lacking = "state or timers"
                elif payload.requests_finalization:
                    lacking = "finalization of bundles"
            elif transform.spec.urn == translations.common_urns.primitives.GROUP_BY_KEY.urn:
                for collection in transform.inputs.values():
                    strategy = components.pcollections[collection].windowing_strategy_id
                    if components.windowing_strategies[strategy].window_fn.urn not in SAFE_WINDOW_FNS:
                        lacking = "windows of its own kind"
            if lacking:
                raise NotImplementedError(
                    f"DaskRunner: {transform.unique_name or name} needs {lacking}. Use another runner for it."
                )
        super()._check_requirements(pipeline_proto)

    def run_stages(
        self, stage_context: translations.TransformContext, stages: list[translations.Stage]
    ) -> RunnerResult:
        """Runs stages on the cluster.

        Args:
            stage_context: What they refer to.
            stages: Stages, each after those that it reads from.

        Returns:
            The result, with metrics.
        """
        with distributed.Client(**self._client_options, set_as_default=False) as client:
            try:
                client.wait_for_workers(1, timeout=_WAIT)
            except distributed.TimeoutError as error:
                raise RuntimeError(
                    f"Dask's scheduler at {client.scheduler.address} has no workers. Start some: `dask worker ADDRESS`."
                ) from error
            partitions = self._partitions or _PARTITIONS * sum(client.nthreads().values())
            execution = _Execution(client, stage_context, stages, partitions)
            return RunnerResult(PipelineState.DONE, execution.run())


class _InTurn(beam.DoFn):
    """Numbers the elements of a bundle."""

    def start_bundle(self) -> None:
        self._count = 0

    def process(self, element: Any) -> Iterator[tuple[int, Any]]:
        self._count += 1
        yield self._count, element


class _Reshuffle(beam.PTransform):
    """Beam's draws keys at random, and others if it runs again: rows would be lost, and others doubled."""

    def __init__(self, kind: Any):
        super().__init__()
        self._kind = kind

    def expand(self, collection: Any) -> Any:
        keyed = collection | "Number" >> beam.ParDo(_InTurn()).with_output_types(beam.typehints.Tuple[int, self._kind])
        shuffled = keyed | beam.transforms.util.ReshufflePerKey()
        return shuffled | "Values" >> beam.Map(lambda pair: pair[1]).with_output_types(self._kind)


class _ReshuffleInTurn(PTransformOverride):
    def matches(self, applied_ptransform: AppliedPTransform) -> bool:
        return type(applied_ptransform.transform) is beam.Reshuffle

    def get_replacement_transform_for_applied_ptransform(self, applied_ptransform: AppliedPTransform) -> Any:
        (output,) = applied_ptransform.outputs.values()
        return _Reshuffle(output.element_type)


@dataclass
class _Stage:
    """A stage and the buffers around it.

    Attributes:
        number: Its place in the pipeline.
        task: What its bundles need.
        reads: Buffer of each reading transform.
        coders: Coders of the elements in those.
        side_inputs: Side inputs without their elements.
    """

    number: int
    task: worker.StageTask
    reads: dict[str, bytes]
    coders: dict[bytes, str]
    side_inputs: list[worker.SideInput]

    @property
    def needs(self) -> set[bytes]:
        return {*self.reads.values(), *(side.buffer for side in self.side_inputs)}


class _Buffer:
    """Elements between stages."""

    def __init__(self) -> None:
        self._pieces: dict[tuple[int, int], worker.Chunks | list[_Part]] = {}
        self._large: set[tuple[int, int]] = set()
        self.parts: list[_Part] | None = None  # as readers get them

    def add(self, stage: int, bundle: int, piece: worker.Chunks | list[_Part], large: bool) -> None:
        """Takes what a bundle wrote: chunks, or a list of futures of partitions (None where one is empty)."""
        self._pieces[stage, bundle] = piece
        if large:
            self._large.add((stage, bundle))

    def small(self) -> worker.Chunks:
        """The chunks that are here, in an order that does not depend on which bundle ended first."""
        here = (piece for key, piece in sorted(self._pieces.items()) if key not in self._large)
        return list(itertools.chain.from_iterable(here))

    def large(self) -> list[list[_Part]]:
        """The partitions of those that are on workers."""
        return [self._pieces[key] for key in sorted(self._large)]


class _Execution:
    """One run of a pipeline."""

    def __init__(
        self, client: distributed.Client, context: translations.TransformContext, stages: list[translations.Stage],
        partitions: int,
    ):  # fmt: skip
        self._client, self._partitions = client, partitions
        job = worker.Job(
            uuid.uuid4().hex, context.components.SerializeToString(), dict(context.safe_coders),
            dict(context.data_channel_coders),
        )  # fmt: skip
        self._harness = worker.Harness(job)
        self._job = self._submit("job", worker.same, job)
        self._stages = [_plan(number, stage, job, partitions) for number, stage in enumerate(stages)]
        self._writers = Counter(buffer for stage in self._stages for buffer in {*stage.task.outputs.values()})
        self._readers = Counter(buffer for stage in self._stages for buffer in stage.needs)
        self._buffers = {buffer: _Buffer() for buffer in self._writers | self._readers}

    def run(self) -> dict[str, list[metrics_pb2.MonitoringInfo]]:
        """Runs all stages; returns metrics by stage, and of all under the empty name."""
        metrics: dict[str, list[metrics_pb2.MonitoringInfo]] = {"": []}
        running: dict[Any, tuple[_Stage, int, Any]] = {}
        bundles: Counter[int] = Counter()
        waiting = list(self._stages)
        ended = distributed.as_completed(loop=self._client.loop, with_results=True)

        def start() -> None:
            for stage in [stage for stage in waiting if not any(self._writers[buffer] for buffer in stage.needs)]:
                waiting.remove(stage)
                for number, future in enumerate(self._start(stage)):
                    report = self._submit(f"{stage.task.name} {number} summary", worker.summary, future)
                    running[report] = (stage, number, future)
                    bundles[stage.number] += 1
                    ended.add(report)

        try:
            start()
            for report, (outputs, infos) in ended:
                stage, number, future = running.pop(report)
                self._collect(stage, number, future, outputs)
                found = [metrics_pb2.MonitoringInfo.FromString(info) for info in infos]
                for name in (stage.task.name, ""):
                    metrics[name] = list(consolidate([*metrics.get(name, []), *found]))
                bundles[stage.number] -= 1
                if not bundles[stage.number]:
                    self._writers.subtract({*stage.task.outputs.values()})
                    start()
        finally:
            self._client.run(worker.close, self._harness.job.id, on_error="ignore")
        assert not waiting
        return metrics

    def _submit(self, name: str, function: Any, *args: Any) -> Any:
        return self._client.submit(function, *args, key=f"{name} {uuid.uuid4().hex}", pure=False)

    def _start(self, stage: _Stage) -> list[Any]:
        """Submits the bundles of a stage; there is one even where it has nothing to read."""
        inputs: list[dict[str, list[_Part]]] = [{name: [] for name in stage.reads} for _ in range(self._partitions)]
        used = 1
        for name, buffer in stage.reads.items():
            for number, part in enumerate(self._parts(buffer, stage.coders[buffer])):
                inputs[number % self._partitions][name].append(part)
                used = max(used, min(number + 1, self._partitions))
        side_inputs = [
            worker.SideInput(side.transform, side.tag, side.buffer, side.access_pattern, self._whole(side.buffer))
            for side in stage.side_inputs
        ]
        for buffer in stage.needs:
            self._readers[buffer] -= 1
            if not self._readers[buffer]:
                del self._buffers[buffer]  # Dask keeps results as long as a task needs them
        task = self._submit(f"{stage.task.name} stage", worker.same, stage.task)
        return [
            self._submit(
                f"{stage.task.name} {number}", worker.run_bundle, self._job, task, inputs[number], side_inputs, number
            )
            for number in range(used)
        ]

    def _collect(self, stage: _Stage, number: int, future: Any, outputs: dict[bytes, list[Any]]) -> None:
        for buffer, found in outputs.items():
            large = bool(found) and isinstance(found[0], int)
            if large:
                found = [
                    self._submit("pick", worker.pick, future, buffer, place) if size else None
                    for place, size in enumerate(found)
                ]
            self._buffers[buffer].add(stage.number, number, found, large)

    def _whole(self, buffer: bytes) -> list[_Part]:
        found = self._buffers[buffer]
        return [found.small(), *(part for parts in found.large() for part in parts if part is not None)]

    def _parts(self, buffer: bytes, coder: str) -> list[_Part]:
        """What readers of a buffer get: about as many partitions as there shall be, none of them empty."""
        if buffer == translations.IMPULSE_BUFFER:
            return [[ENCODED_IMPULSE_VALUE]]
        found = self._buffers[buffer]
        if found.parts is None:
            kind, _ = translations.split_buffer_id(buffer)
            found.parts = list(self._grouped(buffer, found) if kind == "group" else self._spread(coder, found))
        return found.parts

    def _grouped(self, buffer: bytes, found: _Buffer) -> Iterator[_Part]:
        small, large = found.small(), found.large()
        if not large:
            yield from filter(None, self._harness.grouped(buffer, small, self._partitions))
            return
        for place, here in enumerate(self._harness.split(buffer, small, self._partitions)):
            parts = [here, *(parts[place] for parts in large if parts[place] is not None)]
            if len(parts) > 1 or here:
                yield self._submit("group", worker.group, self._job, buffer, parts)

    def _spread(self, coder: str, found: _Buffer) -> Iterator[_Part]:
        yield from filter(None, self._harness.spread(coder, found.small(), self._partitions))
        large = [part for parts in found.large() for part in parts if part is not None]
        pieces = self._partitions // len(large) if large else 1
        for part in large:
            if pieces < 2:
                yield part
            else:
                split = self._submit("spread", worker.spread, self._job, coder, part, pieces)
                yield from (self._submit("take", worker.take, split, place) for place in range(pieces))


def _plan(number: int, stage: translations.Stage, job: worker.Job, partitions: int) -> _Stage:
    """Reads off a stage what it reads and writes, and gives its ends the coders in place of the buffers' names."""
    transforms, side_inputs = [], []
    reads: dict[str, bytes] = {}
    writes: dict[str, bytes] = {}
    coders: dict[bytes, str] = {}
    for original in stage.transforms:
        transform = beam_runner_api_pb2.PTransform()
        transform.CopyFrom(original)
        urn, payload = transform.spec.urn, transform.spec.payload
        if urn in (bundle_processor.DATA_INPUT_URN, bundle_processor.DATA_OUTPUT_URN):
            is_read = urn == bundle_processor.DATA_INPUT_URN
            (collection,) = (transform.outputs if is_read else transform.inputs).values()
            coder = job.channel_coders[collection]
            if is_read:
                reads[transform.unique_name], coders[payload] = payload, coder
            else:
                writes[transform.unique_name] = payload
            transform.spec.payload = beam_fn_api_pb2.RemoteGrpcPort(coder_id=coder).SerializeToString()
        elif urn in translations.PAR_DO_URNS:
            for tag, side in beam_runner_api_pb2.ParDoPayload.FromString(payload).side_inputs.items():
                buffer = translations.create_buffer_id(transform.inputs[tag])
                pattern = side.access_pattern.SerializeToString()
                side_inputs.append(worker.SideInput(transform.unique_name, tag, buffer, pattern, []))
        transforms.append(transform.SerializeToString())
    task = worker.StageTask(stage.name, stage.environment, transforms, writes, partitions)
    return _Stage(number, task, reads, coders, side_inputs)
