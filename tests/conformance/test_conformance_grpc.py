"""What a client sees of TensorFlow Serving 2.16.1 over gRPC, beside its refusals, as it was measured there.

The same tests run against the embedded server (default) or any address in HTR_TFS_ADDR.
"""

from __future__ import annotations

import json
import re

import grpc
import pytest
import serving_toy as toy
from conformance_rows import INVALID, NOT_FOUND, PNG, RANK, Row, check, outputs, predict, raw
from serving_client import TIMEOUT, Client
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2


def test_answer_names_version_and_signature_and_holds_typed_values(client: Client) -> None:
    response = client.predict(toy.predict_request({"image_bytes": [PNG, PNG]}))
    assert response.model_spec.name == "htr"
    assert response.model_spec.version.value == 2
    assert response.model_spec.signature_name == "serving_default"
    log_probs = response.outputs["log_probs"]
    assert [dim.size for dim in log_probs.tensor_shape.dim] == [2, toy.FRAMES, toy.CLASSES]
    assert len(log_probs.float_val) == 2 * toy.FRAMES * toy.CLASSES
    assert not log_probs.tensor_content
    assert list(response.outputs["frames"].int_val) == [toy.FRAMES] * 2


def test_missing_values_repeat_the_last_one(client: Client) -> None:
    response = predict(change=raw(dtype=7, shape=[3], string_val=[PNG]))(client)
    assert response.outputs["frames"].tensor_shape.dim[0].size == 3


def test_an_empty_batch_is_answered(client: Client) -> None:
    response = predict(change=raw(dtype=7, shape=[0]))(client)
    assert [dim.size for dim in response.outputs["log_probs"].tensor_shape.dim] == [0, toy.FRAMES, toy.CLASSES]


def test_output_filter(client: Client) -> None:
    assert set(predict(change=outputs("frames"))(client).outputs) == {"frames"}


def test_every_signature_of_the_contract_answers(client: Client) -> None:
    text = client.predict(toy.predict_request({"image_bytes": [PNG]}, "transcribe"))
    assert set(text.outputs) == {"text", "confidence"}
    letters = client.predict(toy.predict_request({"query": [b"", b""]}, "alphabet")).outputs["characters"]
    assert [value.decode() for value in letters.string_val] == list(toy.ALPHABET) * 2
    assert client.predict(toy.predict_request({"examples": [b""]}, "evaluate")).outputs["text"].string_val == [b"hand"]


def test_metadata(client: Client) -> None:
    response = client.metadata()
    assert response.model_spec.name == "htr" and response.model_spec.version.value == 2
    packed = response.metadata["signature_def"]
    assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    signatures = get_model_metadata_pb2.SignatureDefMap()
    packed.Unpack(signatures)
    assert {"serving_default", "transcribe", "alphabet", "evaluate"} <= set(signatures.signature_def)


@pytest.mark.parametrize("method", ["Classify", "Regress", "MultiInference"])
def test_methods_of_other_models_are_refused(client: Client, target, method: str) -> None:
    """The real server says what the request or its signature lacks; the embedded one that it has no such method."""
    with pytest.raises(grpc.RpcError) as failure:
        client.channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")(b"", timeout=TIMEOUT)
    if target.embedded:
        assert failure.value.code().name == "UNIMPLEMENTED"
        assert failure.value.details() == f"{method} is not implemented by the embedded server"
    else:
        assert failure.value.code().name == INVALID


@pytest.mark.parametrize("name", ["", "ModelService", "PredictionService"])
def test_health(client: Client, name: str) -> None:
    assert client.health(name) == 1


def test_a_response_larger_than_the_client_takes(target) -> None:
    small = Client(target.address, options=[("grpc.max_receive_message_length", 1000)])
    with small, pytest.raises(grpc.RpcError) as failure:
        predict()(small)
    assert failure.value.code().name == "RESOURCE_EXHAUSTED"
    # Some versions of gRPC wrap the text.
    assert re.search(r"CLIENT: Received message larger than max \(\d+ vs. 1000\)", failure.value.details())


def test_a_text_longer_than_the_limit_is_cut(client: Client) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        client.predict(toy.predict_request({"image_bytes": [PNG]}, model="n" * 2000))
    assert failure.value.details() == "Servable not found for request: Latest(" + "n" * 985 + "...TRUNCATED"


def test_all_threads_busy(target) -> None:
    """At most --grpc_max_threads requests are taken (by default 4 a CPU); the rest is refused at once."""
    request = toy.predict_request({"rounds": [1500]}, "burn")
    with Client(target.address) as many:
        futures = [many.prediction.Predict.future(request, timeout=60) for _ in range(64)]
        refused = {(future.code().name, future.details()) for future in futures if future.exception() is not None}
    text = "Server Threadpool Exhausted" if target.embedded else ""
    assert refused == {("RESOURCE_EXHAUSTED", text)}


RETRYING = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["RESOURCE_EXHAUSTED"],
            },
        }
    ]
}


def test_who_is_refused_may_come_again(target) -> None:
    """A refusal does not commit the call: a channel's retry policy, such as older clients have, gets every answer."""
    request = toy.predict_request({"rounds": [60]}, "burn")  # shorter than the backoff, on a loaded machine too
    with Client(target.address, options=[("grpc.service_config", json.dumps(RETRYING))]) as many:
        futures = [many.prediction.Predict.future(request, timeout=60) for _ in range(24)]
        assert {future.code().name for future in futures} == {"OK"}


class TestReload:
    """Rows that change the configuration; each leaves it as it was."""

    @pytest.fixture(autouse=True)
    def restore(self, client: Client, target):
        self.config = {"name": "htr", "base_path": target.base, "versions": [1, 2]}
        yield
        client.reload([self.config])
        for version in (1, 2):
            client.wait_state(version, 30)

    def test_label_on_a_version_that_is_not_loaded(self, client: Client, target) -> None:
        row = Row(
            "label",
            "FAILED_PRECONDITION",
            "Request to assign label to version 9 of model htr, which is not currently available for inference",
            lambda client: client.reload([{**self.config, "labels": {"stable": 9}}]),
        )
        check(row, client, target.embedded)

    def test_label_then_its_version_is_unloaded(self, client: Client, target) -> None:
        client.reload([{**self.config, "labels": {"old": 1}}])
        assert predict(label="old")(client).model_spec.version.value == 1
        client.reload([{**self.config, "versions": [2], "labels": {"old": 1}}])
        client.wait_state(1, 50)
        row = Row("gone", NOT_FOUND, "Servable not found for request: Specific(htr, 1)", predict(label="old"))
        check(row, client, target.embedded)

    def test_a_version_that_cannot_be_loaded(self, client: Client) -> None:
        client.reload([{**self.config, "versions": [1, 2, 3]}])
        client.wait_state(3, 50)
        rows = client.status().model_version_status
        assert [row.version for row in rows] == sorted((row.version for row in rows), reverse=True)
        assert rows[0].version == 3 and rows[0].status.error_code == 11
        assert rows[0].status.error_message.startswith("Read less bytes than requested")
        assert predict()(client).model_spec.version.value == 2  # the newest that can answer


class TestBatching:
    """Rows of a server with --enable_batching: 8 rows a batch, 2 batches queued, 1 thread."""

    @pytest.fixture
    def batching(self, target):
        if not target.batching:
            pytest.skip("HTR_TFS_BATCH_ADDR is not set")
        with Client(target.batching) as connected:
            yield connected

    def test_more_rows_than_a_batch(self, batching: Client, target) -> None:
        row = Row(
            "batch size",
            INVALID,
            "Task size 9 is larger than maximum input batch size 8",
            predict({"image_bytes": [PNG] * 9}),
        )
        check(row, batching, target.embedded)

    def test_rank_0(self, batching: Client, target) -> None:
        message = "Batching Run() input tensors must have at least one dimension"
        check(Row("rank 0", INVALID, message, predict({"image_bytes": PNG}), **RANK), batching, target.embedded)

    def test_queue_full(self, batching: Client) -> None:
        request = toy.predict_request({"rounds": [300] * 8}, "burn")
        futures = [batching.prediction.Predict.future(request, timeout=60) for _ in range(16)]
        refused = {f"{call.code().name}: {call.details()}" for call in futures if call.exception() is not None}
        assert refused == {
            "UNAVAILABLE: The batch scheduling queue to which this task was submitted is full; currently 2 batches "
            "enqueued and max_enqueued_batches is 2"
        }
        assert any(call.exception() is None for call in futures)

    def test_a_bad_image_among_good_ones(self, batching: Client, target) -> None:
        """The real server fails every request of the batch; the embedded one only the bad one."""
        good = toy.predict_request({"image_bytes": [PNG]})
        bad = toy.predict_request({"image_bytes": [b"bad"]})
        calls = [batching.prediction.Predict.future(request, timeout=60) for request in [good, good, bad, good] * 3]
        failed = [index for index, call in enumerate(calls) if call.exception() is not None]
        assert {2, 6, 10} <= set(failed)
        if target.embedded:
            assert failed == [2, 6, 10]

    def test_signatures_answer(self, batching: Client) -> None:
        response = batching.predict(toy.predict_request({"query": [b""]}, "alphabet"))
        assert len(response.outputs["characters"].string_val) == len(toy.ALPHABET)


def test_a_reload_to_nowhere_unloads_what_was_there(target) -> None:
    """On a server of its own: the real one waits for that model for ever, and takes no reload after it."""
    if not target.spare:
        pytest.skip("HTR_TFS_SPARE_ADDR is not set")
    with Client(target.spare) as client:
        client.wait_state(2, 30)
        with pytest.raises(grpc.RpcError) as failure:
            client.reload([{"name": "elsewhere", "base_path": "/no/such/path"}], timeout=1)
        assert failure.value.code().name == "DEADLINE_EXCEEDED"
        client.wait_state(2, 50)
        with pytest.raises(grpc.RpcError) as failure:
            predict()(client)
        assert failure.value.details() == "Servable not found for request: Latest(htr)"


def test_predict_response_is_what_the_client_library_parses(client: Client) -> None:
    data = predict()(client).SerializeToString()
    assert predict_pb2.PredictResponse.FromString(data).outputs["frames"].int_val[0] == toy.FRAMES
