"""The batcher alone, with a function in place of the model."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from serving import protos
from serving.batching import Batcher, BatchingOptions, call_size
from serving.metrics import Metrics
from serving.status import Code, ServingError
from tests.conftest import until

NEVER = threading.Event().is_set


class Model:
    """Doubles its input, once it may go; notes size and deadline of every run; negative numbers are poison."""

    def __init__(self, held: bool = False) -> None:
        self.sizes: list[int] = []
        self.deadlines: list[float | None] = []
        self.started, self.go = threading.Event(), threading.Event()
        if not held:
            self.go.set()

    def __call__(self, feeds, fetches, deadline):
        rows = feeds["x"]
        self.sizes.append(len(rows))
        self.deadlines.append(deadline)
        self.started.set()
        assert self.go.wait(60)
        if (rows < 0).any():
            raise ServingError(Code.INVALID_ARGUMENT, "poison")
        return [rows * 2 if name == "double" else rows.sum() for name in fetches]


def batcher(**options) -> Batcher:
    return Batcher(BatchingOptions(**{"num_batch_threads": 1, **options}), Metrics())


def call(joined: Batcher, model: Model, *values: float, deadline=None, abandoned=NEVER, fetch="double"):
    array = np.array(values, dtype=np.float32)
    return joined.run("v1", model, {"x": array}, [fetch], deadline, abandoned)[0]


def submit(joined: Batcher, model: Model, *values: float, deadline=None, abandoned=NEVER):
    """The future of a call, which is queued when this returns."""
    array = np.array(values, dtype=np.float32)
    return joined.submit("v1", model, {"x": array}, ["double"], deadline, abandoned)[0]


def test_calls_that_wait_run_as_one_and_get_their_own_rows():
    model, joined = Model(held=True), batcher(max_batch_size=8)
    futures = [submit(joined, model, value, value + 0.5) for value in range(9)]
    model.go.set()
    assert [future.result()[0].tolist() for future in futures] == [[2.0 * value, 2.0 * value + 1] for value in range(9)]
    assert max(model.sizes) == 8 and sum(model.sizes) == 18 and len(model.sizes) <= 4


def test_concurrent_calls_get_their_own_rows():
    model, joined = Model(), batcher(max_batch_size=8)
    with ThreadPoolExecutor(9) as pool:
        results = list(pool.map(lambda value: call(joined, model, value, value + 0.5).tolist(), range(9)))
    assert results == [[2.0 * value, 2.0 * value + 1] for value in range(9)]


def test_a_lone_call_waits_for_the_timeout_only():
    model, joined = Model(), batcher(max_batch_size=8, batch_timeout_micros=100_000)
    started = time.monotonic()
    call(joined, model, 1)
    assert 0.09 < time.monotonic() - started < 10


def test_a_full_batch_does_not_wait():
    model, joined = Model(), batcher(max_batch_size=2, batch_timeout_micros=10_000_000)
    assert call(joined, model, 1, 2).tolist() == [2, 4]


def test_a_batch_may_run_as_long_as_its_most_patient_call_allows():
    model, joined = Model(), batcher(max_batch_size=2, batch_timeout_micros=10_000_000)
    soon, later = time.monotonic() + 50, time.monotonic() + 500
    for deadlines in ((soon, later), (later, soon), (soon, None)):
        for future in [submit(joined, model, 1, deadline=deadline) for deadline in deadlines]:
            future.result()
    assert model.deadlines == [later, later, None]


def test_batches_run_in_the_order_in_which_they_began():
    """Whatever version they are of: none waits for ever behind another."""
    all_there, order = threading.Event(), []

    def run(feeds, fetches, deadline):
        all_there.wait(60)
        order.append(int(feeds["x"][0]))
        return [feeds["x"]]

    joined = batcher(max_batch_size=1)
    versions = ("v1", "v1", "v2", "v1")
    futures = [joined.submit(v, run, {"x": np.array([i])}, ["x"], None, NEVER)[0] for i, v in enumerate(versions)]
    all_there.set()
    for future in futures:
        future.result()
    assert order == [0, 1, 2, 3]


def test_full_queue():
    model, joined = Model(held=True), batcher(max_batch_size=2, max_enqueued_batches=2)
    first = submit(joined, model, 1, 1)
    model.started.wait()
    waiting = [submit(joined, model, 2, 2) for _ in range(2)]
    with pytest.raises(ServingError) as failure:
        call(joined, model, 3, 3)
    assert failure.value.code == Code.UNAVAILABLE
    assert failure.value.message.endswith("currently 2 batches enqueued and max_enqueued_batches is 2")
    model.go.set()
    assert all(len(future.result()[0]) == 2 for future in [first, *waiting])
    assert call(joined, model, 1).tolist() == [2]


def test_too_many_rows():
    with pytest.raises(ServingError, match="Task size 3 is larger than maximum input batch size 2"):
        call(batcher(max_batch_size=2), Model(), 1, 2, 3)


def test_large_calls_are_split_when_allowed():
    model = Model()
    joined = batcher(
        max_batch_size=8, enable_large_batch_splitting=True, max_execution_batch_size=3, batch_timeout_micros=0
    )
    assert call(joined, model, *range(8)).tolist() == [2.0 * value for value in range(8)]
    assert max(model.sizes) <= 3


def test_padding_to_an_allowed_size():
    model, joined = Model(), batcher(max_batch_size=8, allowed_batch_sizes=(4, 8))
    assert call(joined, model, 1).tolist() == [2]
    assert model.sizes == [4]


def test_poison_fails_alone():
    model, joined = Model(), batcher(max_batch_size=4, batch_timeout_micros=10_000_000)
    values = [1.0, 2.0, -1.0, 3.0]
    futures = [submit(joined, model, value) for value in values]
    for value, future in zip(values, futures, strict=True):
        if value < 0:
            assert isinstance(future.exception(), ServingError) and future.exception().message == "poison"
        else:
            assert future.result()[0].tolist() == [2 * value]
    assert model.sizes[0] == 4


def test_expired_and_abandoned_calls_cost_nothing():
    model, joined = Model(held=True), batcher(max_batch_size=1)
    gone = threading.Event()
    first = submit(joined, model, 1)
    model.started.wait()
    with pytest.raises(ServingError) as late:  # it does not wait for the run before it
        call(joined, model, 2, deadline=time.monotonic() + 0.05)
    assert late.value.code == Code.DEADLINE_EXCEEDED
    left = submit(joined, model, 3, abandoned=gone.is_set)
    gone.set()
    model.go.set()
    assert left.exception().code == Code.CANCELLED
    assert first.result()[0].tolist() == [2]
    assert model.sizes == [1]


def test_different_shapes_and_types_never_meet():
    sizes = []

    def run(feeds, fetches, deadline):
        sizes.append(feeds["x"].shape)
        return [feeds["x"]]

    joined = batcher(max_batch_size=8, batch_timeout_micros=50_000)
    arrays = [np.zeros((1, 2), "f"), np.zeros((1, 3), "f"), np.zeros((1, 2), "i4")]
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda array: joined.run("v", run, {"x": array}, ["x"], None, NEVER)[0], arrays))
    assert sorted(sizes) == [(1, 2), (1, 2), (1, 3)]
    assert [result.dtype for result in results] == [array.dtype for array in arrays]


def test_output_without_batch_dimension():
    with pytest.raises(ServingError) as failure:
        call(batcher(), Model(), 1, fetch="sum")
    assert failure.value.code == Code.FAILED_PRECONDITION


def test_stop_finishes_what_is_queued_and_takes_no_more():
    model, joined = Model(held=True), batcher(max_batch_size=1, max_enqueued_batches=10_000)
    futures = [submit(joined, model, 1) for _ in range(3)]

    def is_stopping() -> bool:
        try:
            futures.append(submit(joined, model, 1))
        except ServingError as error:
            return error.code == Code.UNAVAILABLE and error.message == "the server is shutting down"
        return False

    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(joined.stop)
        until(is_stopping)
        assert not stopped.done()
        model.go.set()
        stopped.result()
    assert all(future.result(0)[0].tolist() == [2] for future in futures)


def test_stop_waits_for_no_more_calls():
    model, joined = Model(), batcher(max_batch_size=2, batch_timeout_micros=600_000_000)
    future = submit(joined, model, 1)
    joined.stop()
    assert future.result(0)[0].tolist() == [2]


@pytest.mark.parametrize(("feeds", "message"), [
    ({}, "must have at least one input tensor"),
    ({"x": np.float32(1)}, "input tensors must have at least one dimension"),
    ({"x": np.zeros(2), "y": np.zeros(3)}, "input tensors must have equal 0th-dimension size"),
])  # fmt: skip
def test_calls_that_have_no_rows_in_common(feeds, message):
    with pytest.raises(ServingError, match=f"^INVALID_ARGUMENT: .*{message}"):
        call_size(feeds)


def test_a_model_that_loses_rows():
    with pytest.raises(ServingError, match=r"^FAILED_PRECONDITION: .* does not equal the sum"):
        batcher().run("v1", lambda *_: [np.zeros(1)], {"x": np.zeros(2)}, ["x"], None, NEVER)


@pytest.mark.parametrize(("options", "message"), [
    ({"max_batch_size": 0}, "max_batch_size must be positive; was 0"),
    ({"max_enqueued_batches": 0}, "max_enqueued_batches must be positive"),
    ({"batch_timeout_micros": -1}, "batch_timeout_micros must be non-negative"),
    ({"num_batch_threads": -1}, "num_batch_threads must be non-negative; was -1"),
    ({"enable_large_batch_splitting": True, "max_execution_batch_size": -2}, "max_execution_batch_size must be non-"),
    ({"enable_large_batch_splitting": True, "max_execution_batch_size": 2000}, "max_execution_batch_size must not"),
    ({"allowed_batch_sizes": (4, 2)}, "allowed_batch_sizes entries must be monotonically increasing"),
    ({"allowed_batch_sizes": (0, 1000)}, "allowed_batch_sizes entries must be monotonically increasing"),
    ({"allowed_batch_sizes": (4, 8)}, "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 8"),
])  # fmt: skip
def test_options_that_contradict_each_other(options, message):
    with pytest.raises(ServingError, match=f"^INVALID_ARGUMENT: {message}"):
        batcher(**options)


def test_parameters_file(tmp_path):
    file = tmp_path / "batching.config"
    file.write_text("max_batch_size { value: 16 } batch_timeout_micros { value: 0 } allowed_batch_sizes: [4, 16]")
    options = BatchingOptions.from_proto(protos.read_text_proto(file, protos.BatchingParameters()))
    assert (options.max_batch_size, options.allowed_batch_sizes, options.max_enqueued_batches) == (16, (4, 16), 10)
    file.write_text("max_batch_size { value: 16 } allowed_batch_sizes: [4, 8]")
    with pytest.raises(
        ServingError, match=r"^INVALID_ARGUMENT: Last entry in allowed_batch_sizes must match max_batch_size"
    ):
        BatchingOptions.from_proto(protos.read_text_proto(file, protos.BatchingParameters()))
    file.write_text("max_batch_siz { value: 16 }")
    with pytest.raises(ServingError, match=r"^INVALID_ARGUMENT: .*max_batch_siz"):
        protos.read_text_proto(file, protos.BatchingParameters())
