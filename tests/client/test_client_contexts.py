"""Context variables of a caller hold for all requests of the call, in whatever thread they are made."""

import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from htr_client import HtrClient
from htr_client.testing import ALPHABET, png
from tests.conftest import until

REQUEST = contextvars.ContextVar("request", default="none")


@pytest.fixture
def page():
    image = np.full((300, 300), 255, np.uint8)
    image[100:130, 30:270] = 0
    image[200:230, 30:270] = 0
    return image


@pytest.fixture
def traced():
    """The spans of a test, and a tracer for its own."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider())
    trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
    yield exporter, trace.get_tracer("tests")
    exporter.shutdown()


def headers_of(server):
    return {sent.get("x-request-id") for sent in server.model.metadata}


@pytest.mark.parametrize("work", ["one", "many", "find", "page"])
def test_metadata_sees_the_variables_of_the_caller(kind, server, page, work):
    with kind(server.address, batch_size=2, metadata=lambda: [("x-request-id", REQUEST.get())]) as client:
        token = REQUEST.set("mine")
        try:
            if work == "one":
                client.transcribe(png("a"))
            elif work == "many":
                assert len(list(client.transcribe_many([png("a")] * 20))) == 20
            elif work == "find":
                assert len(client.find_page(page).lines) == 2
            else:
                assert len(client.transcribe_page(page).lines) == 2
        finally:
            REQUEST.reset(token)
    assert headers_of(server) == {"mine"}


@pytest.mark.parametrize("source", [list, iter])
def test_the_variables_are_those_of_the_call_not_of_who_takes_its_results(kind, server, source):
    with kind(server.address, metadata=lambda: [("x-request-id", REQUEST.get())]) as client:
        context = contextvars.copy_context()
        context.run(REQUEST.set, "mine")
        results = context.run(client.transcribe_many, source([png("a")] * 3))
        assert [result.text for result in results] == ["a"] * 3
    assert headers_of(server) == {"mine"}


@pytest.mark.parametrize("work", ["many", "page"])
def test_spans_of_the_calls_belong_to_that_of_the_caller(kind, server, page, traced, work):
    exporter, tracer = traced
    with kind(server.address, opentelemetry=True) as client, tracer.start_as_current_span("request") as parent:
        if work == "many":
            assert len(list(client.transcribe_many([png("a")] * 3))) == 3
        else:
            client.transcribe_page(page)
    until(lambda: len(exporter.get_finished_spans()) >= 4)  # they end a moment after the calls
    spans = [span for span in exporter.get_finished_spans() if span.name != "request"]
    assert len(spans) >= 3
    assert {span.parent.span_id for span in spans if span.parent} == {parent.get_span_context().span_id}
    assert all(span.parent for span in spans)


def senders():
    return [thread for thread in threading.enumerate() if thread.name.startswith("htr-send")]


def test_who_stops_early_ends_the_calls_under_way(server):
    """Their threads would live on until the deadline, and hold the process at its exit."""
    go_on, held = threading.Event(), threading.Event()
    answer = server.model.predict

    def predict(request, context):
        if request.model_spec.signature_name == "serving_default" and len(server.model.batches) >= 2:
            held.set()
            go_on.wait(120)
        return answer(request, context)

    server.model.predict = predict
    before = set(senders())
    with HtrClient(server.address, timeout=120, batch_size=1, in_flight=2) as client:
        results = client.transcribe_many([png("a")] * 9)
        try:
            assert next(results).text == "a"
            assert held.wait(60)
            results.close()
            until(lambda: not set(senders()) - before, 60)
            assert not go_on.is_set()
        finally:
            go_on.set()
        assert client.transcribe(png("b")).text == "b"


def test_who_stops_early_does_not_wait_for_what_another_caller_fetches(server):
    model, go_on, asked, waiting = server.model, threading.Event(), threading.Event(), threading.Event()
    model.alphabets[2], model.language_models[2] = list(ALPHABET), b""
    answer, one_at_a_time = model.predict, threading.Lock()

    def predict(request, context):
        if request.model_spec.signature_name == "alphabet" and request.model_spec.version.value == 2:
            asked.set()
            go_on.wait(120)
        if request.model_spec.signature_name != "serving_default":
            return answer(request, context)
        with one_at_a_time:
            model.version = 1 if request.inputs["image_bytes"].string_val[0] == png("a") else 2
            if len(model.batches) >= 4:  # the other caller's, and the second window of two begins
                waiting.set()
            return answer(request, context)

    before = set(senders())
    with HtrClient(server.address, timeout=120, batch_size=1, in_flight=2) as client:
        client.transcribe(png("known"))
        model.batches.clear()
        model.predict = predict
        with ThreadPoolExecutor(1) as other:
            call = other.submit(client.transcribe, png("other"))
            try:
                assert asked.wait(60)
                results = client.transcribe_many([png("a")] * 2 + [png("b")] * 7)
                assert next(results).version == 1
                assert waiting.wait(60)
                results.close()
                until(lambda: not set(senders()) - before, 60)
                assert not call.done()
            finally:
                go_on.set()
            assert call.result().text == "other"
