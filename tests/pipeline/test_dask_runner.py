"""The runner for Dask: what goes wrong on Beam's own, and workers that die."""

import contextlib
import os
import signal
from collections import Counter

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms import combiners, userstate, window
from apache_beam.utils.windowed_value import WindowedValue

from components.common.settings import ConfigError
from pipeline.beam.dask_worker import SMALL
from pipeline.beam.options import check, pipeline_options
from pipeline.beam.settings import BeamConfig

NUMBERS = range(600)
# More than what goes through the driver.
LONG = SMALL // 50


class Parity(beam.DoFn):
    """Numbers to two tagged outputs, and at the end of each bundle how many there were."""

    def start_bundle(self):
        self._count = 0

    def process(self, number):
        self._count += 1
        yield beam.pvalue.TaggedOutput("odd" if number % 2 else "even", number)

    def finish_bundle(self):
        yield WindowedValue(self._count, 0, [window.GlobalWindow()])


@pytest.mark.slow
def test_outputs_side_inputs_and_groups_reach_their_readers_alone(dask):
    numbers_by_rest = {rest: LONG * len(range(rest, len(NUMBERS), 7)) for rest in range(7)}
    with dask.busy() as workers, beam.Pipeline(options=PipelineOptions(dask.options)) as pipeline:
        numbers = pipeline | beam.Create(NUMBERS)
        tagged = numbers | beam.ParDo(Parity()).with_outputs("odd", "even", main="counts")
        assert_that(tagged.odd, equal_to(list(NUMBERS[1::2])), "odd")
        assert_that(tagged.even, equal_to(list(NUMBERS[::2])), "even")
        assert_that(tagged.counts | "all" >> beam.CombineGlobally(sum), equal_to([len(NUMBERS)]), "counts")
        odd = beam.pvalue.AsSingleton(tagged.odd | combiners.Count.Globally())
        assert_that(
            tagged.even | "add" >> beam.Map(lambda number, more: number + more, odd),
            equal_to([number + len(NUMBERS) // 2 for number in NUMBERS[::2]]), "side input",
        )  # fmt: skip
        large = numbers | "large" >> beam.Map(lambda number: (number % 7, bytes([number % 251]) * LONG))
        lengths = large | beam.GroupByKey() | beam.MapTuple(lambda rest, all: (rest, sum(map(len, all))))
        assert_that(lengths, equal_to(list(numbers_by_rest.items())), "groups")
        three = pipeline | "three" >> beam.Create([3])
        found = three | beam.Map(lambda key, all: all[key], beam.pvalue.AsDict(lengths))
        assert_that(found, equal_to([numbers_by_rest[3]]), "dictionary")
        assert_that([numbers, tagged.odd] | beam.Flatten() | "n" >> combiners.Count.Globally(), equal_to([900]), "flat")
        by_time = (
            numbers
            | beam.Map(lambda number: window.TimestampedValue(("", number), number))
            | beam.WindowInto(window.FixedWindows(100))
            | "in windows" >> beam.GroupByKey()
            | beam.MapTuple(lambda _, all: sum(all))
        )
        assert_that(by_time, equal_to([sum(NUMBERS[start : start + 100]) for start in NUMBERS[::100]]), "windows")
        numbers | beam.Map(lambda _: beam.metrics.Metrics.counter("here", "numbers").inc())
    assert len(workers) == 2
    (counter,) = pipeline.result.metrics().query(beam.metrics.MetricsFilter().with_name("numbers"))["counters"]
    assert counter.committed == len(NUMBERS)


class Dies(beam.DoFn):
    """Passes elements on; the worker that gets the given one dies of it, once."""

    def __init__(self, at: int, mark: str):
        self._at, self._mark = at, mark

    def process(self, element):
        if element[0] == self._at:
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self._mark, os.O_CREAT | os.O_EXCL))
                os.kill(os.getpid(), signal.SIGKILL)
        yield element


@pytest.mark.either_stack
@pytest.mark.slow
def test_a_worker_that_dies_costs_no_rows(tmp_path):
    """Each has half the results of the stage before, which are large, and split by keys that are drawn."""
    from benchmarks.dask_cluster import serve

    text = str(tmp_path / "numbers")
    with serve(tmp_path) as cluster, beam.Pipeline(options=PipelineOptions(cluster.options)) as pipeline:
        _ = (
            pipeline
            | beam.Create(NUMBERS)
            | "large" >> beam.Map(lambda number: (number, bytes(LONG)))
            | beam.Reshuffle()
            | beam.ParDo(Dies(NUMBERS[-1], str(tmp_path / "died")))
            | "again" >> beam.Reshuffle()
            | beam.Map(lambda element: str(element[0]))
            | beam.io.WriteToText(text)
        )
    assert (tmp_path / "died").exists()
    written = Counter(int(line) for file in tmp_path.glob("numbers-*") for line in file.read_text().split())
    assert written == Counter(NUMBERS)
    # Beam's folder of temporary files may stay: of a bundle that Dask has run twice the second one makes it again.


class Stateful(beam.DoFn):
    STATE = userstate.CombiningValueStateSpec("sum", sum)

    def process(self, element, state=beam.DoFn.StateParam(STATE)):  # noqa: B008 - Beam's way
        state.add(element[1])


def test_a_transform_with_state_is_named(tmp_path):
    options = pipeline_options(BeamConfig(runner="dask", address="tcp://nowhere:1"))
    with (
        pytest.raises(NotImplementedError, match=r"Remembers.* needs state or timers"),
        beam.Pipeline(options=PipelineOptions(options)) as pipeline,
    ):
        _ = pipeline | beam.Create([("a", 1)]) | "Remembers" >> beam.ParDo(Stateful())


def test_its_options_are_known_to_beam():
    check(BeamConfig(runner="dask", address="tcp://nowhere:1", args=["--dask_npartitions=8"]))
    with pytest.raises(ConfigError, match="knows no option --dask_partitions"):
        check(BeamConfig(runner="dask", address="tcp://nowhere:1", args=["--dask_partitions=8"]))
