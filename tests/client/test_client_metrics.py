"""What a client counts for Prometheus."""

import asyncio
import re

import grpc
import pytest

from htr_client import AsyncHtrClient, ClientMetrics, HtrClient, HtrError, ImageError, ModelNotFound
from htr_client.metrics import MAX_CHARACTERS, MAX_SERIES, Metric
from htr_client.results import Timings, Transcription
from htr_client.testing import png


def samples(page):
    """Values by series of a page in Prometheus' text format, without buckets."""
    found = dict(re.fullmatch(r"(\w+\{.*\}) (\S+)", line).groups() for line in page.splitlines() if line[0] != "#")
    return {series: float(value) for series, value in found.items() if "_bucket" not in series}


def test_every_call_and_every_image_is_counted_once(server, kind):
    server.model.poison = bad = png("bad")
    with kind(server.address) as client:
        metrics = client.metrics
        client.transcribe(png("one"))
        server.model.failures += [(grpc.StatusCode.INTERNAL, "broken")]
        with pytest.raises(HtrError):
            client.transcribe(png("two"))
        for image in (b"rubbish", bad):
            with pytest.raises(ImageError):
                client.transcribe(image)
        results = list(client.transcribe_many([png("three"), b"", png("four"), bad]))
        assert [result.ok for result in results] == [True, False, True, False]
        client.model_status()
    found = samples(metrics.page())
    images = {key: value for key, value in found.items() if key.startswith("htr_client_images_total")}
    assert images == {
        'htr_client_images_total{model="htr",version="1",outcome="ok"}': 3,
        'htr_client_images_total{model="htr",version="",outcome="not_an_image"}': 1,
        'htr_client_images_total{model="htr",version="",outcome="empty"}': 1,
        'htr_client_images_total{model="htr",version="",outcome="refused"}': 2,
    }
    calls = {key: value for key, value in found.items() if key.startswith("htr_client_calls_total")}
    # Refused: each poisoned image alone twice, and the batches in which one of them is.
    refused = calls.pop('htr_client_calls_total{model="htr",signature="serving_default",code="INVALID_ARGUMENT"}')
    assert refused >= 5
    answered = 'htr_client_calls_total{model="htr",signature="serving_default",code="OK"}'
    assert calls.pop(answered) >= 2
    assert calls == {
        'htr_client_calls_total{model="htr",signature="serving_default",code="INTERNAL"}': 1,
        'htr_client_calls_total{model="htr",signature="alphabet",code="OK"}': 1,
        'htr_client_calls_total{model="htr",signature="language_model",code="OK"}': 1,
        'htr_client_calls_total{model="htr",signature="",code="OK"}': 1,
    }
    timed = found['htr_client_call_seconds_count{model="htr",signature="serving_default"}']
    assert timed == found['htr_client_batch_images_count{model="htr"}'] == len(server.model.batches) + 1
    assert found['htr_client_batch_images_sum{model="htr"}'] == sum(server.model.batches) + 1
    confidences = {key: value for key, value in found.items() if key.startswith("htr_client_confidence_count")}
    assert confidences == {'htr_client_confidence_count{model="htr",version="1"}': 3}, "those of texts"


def test_a_label_that_no_server_knows_counts_as_a_model_that_is_not_there(server, kind):
    """Servers say INVALID_ARGUMENT, as of a caller's image, which no alert looks at."""
    with kind(server.address, label="gone") as client:
        with pytest.raises(ModelNotFound):
            client.transcribe(png("one"))
        calls = [key for key in samples(client.metrics.page()) if key.startswith("htr_client_calls_total")]
    assert calls and all('code="NOT_FOUND"' in call for call in calls)


def test_clients_share_metrics(server):
    metrics = ClientMetrics()
    with HtrClient(server.address, metrics=metrics) as one, HtrClient(server.address, metrics=metrics) as two:
        one.transcribe(png("one"))
        two.transcribe(png("two"))
    assert samples(metrics.page())['htr_client_images_total{model="htr",version="1",outcome="ok"}'] == 2


def test_a_call_that_its_task_gave_up_is_cancelled(server):
    async def give_up():
        async with AsyncHtrClient(server.address) as client:
            await client.transcribe(png("one"))
            server.model.delay = 5
            task = asyncio.create_task(client.transcribe(png("two")))
            while len(server.model.metadata) < 4:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return client.metrics.page()

    cancelled = 'htr_client_calls_total{model="htr",signature="serving_default",code="CANCELLED"}'
    assert samples(asyncio.run(give_up()))[cancelled] == 1


def test_confidences_of_lines_are_in_buckets_of_their_own():
    """As one, the median of lines would be read from a bucket up to 0.1, whatever it is."""
    metrics, below = ClientMetrics(), []
    for confidence in (4e-10, 6e-7, 6e-6, 6e-5, 0.02):
        metrics.result(Transcription("a line", confidence, (), (), "htr", 1, None, Timings(0.0, 0.0, 0.0)))
    for bound in ("1e-10", "1e-09", "1e-06", "1e-05", "0.0001", "0.01", "0.1"):
        series = f'htr_client_confidence_bucket{{model="htr",version="1",le="{bound}"}}'
        below.append(int(re.search(rf"^{re.escape(series)} (\d+)$", metrics.page(), re.M)[1]))
    assert below == [0, 1, 2, 3, 4, 4, 5]


def test_the_page_is_what_prometheus_reads():
    counter = Metric("/a/b-c", "counter", ("name",))
    counter.add(2, 'quote " backslash \\ line\n')
    assert counter.lines() == ["# TYPE :a:b:c counter", ':a:b:c{name="quote \\" backslash \\\\ line\\n"} 2']
    histogram = Metric("h", "histogram", (), [1.0, 2.0])
    for value in (1, 1.5, 2, 3):
        histogram.add(value)
    # The bound itself belongs to the bucket.
    assert histogram.lines()[1:] == [
        'h_bucket{le="1"} 1', 'h_bucket{le="2"} 3', 'h_bucket{le="+Inf"} 4', "h_sum{} 7.5", "h_count{} 4",
    ]  # fmt: skip
    gauge = Metric("g", "gauge", ())
    for value in (1795655053.25, 3):
        gauge.set(value)
        assert gauge.lines()[1:] == [f"g{{}} {value}"]
    for number in range(MAX_SERIES + 10):
        counter.add(1, str(number))
    assert counter.value("other") == 11 and len(counter.lines()) <= MAX_SERIES + 2
    long = Metric("l", "counter", ("model",))
    for end in ("a", "b"):  # as it comes in a request of many megabytes
        long.add(1, MAX_CHARACTERS * "m" + end)
    assert long.lines()[1:] == [f'l{{model="{MAX_CHARACTERS * "m"}"}} 2']
    kept = Metric("k", "counter", ("path", "status"), bounded=("status",))
    for number in range(MAX_SERIES):
        kept.add(1, str(number), "success")
    for status in ("success", "fail", "success"):
        kept.add(1, "one more", status)
    assert kept.lines()[-2:] == ['k{path="other",status="success"} 2', 'k{path="other",status="fail"} 1']
