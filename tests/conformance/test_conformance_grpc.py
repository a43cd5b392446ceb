"""What a client sees of TensorFlow Serving 2.16.1 over gRPC, row by row, as it was measured there.

The same rows run against the embedded server (default) or any address in HTR_TFS_ADDR. Where the embedded server
deliberately answers otherwise, the row says how (`embedded`) and why (`reason`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
import serving_toy as toy
from serving_client import TIMEOUT, Client
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
)

from htr_client.connection import channel_options

NODE = r"\n\t \[\[.*"  # the graph's nodes are named differently in every model
PNG = toy.png()
INVALID, NOT_FOUND = "INVALID_ARGUMENT", "NOT_FOUND"


@dataclass
class Row:
    name: str
    code: str
    message: str  # exact, or a regular expression if it starts with ^
    call: Callable[[Client], Any]
    embedded: str = ""
    reason: str = ""


def predict(inputs=None, change: Callable[[Any], None] | None = None, **spec: Any) -> Callable[[Client], Any]:
    def call(client: Client) -> Any:
        request = toy.predict_request({"image_bytes": [PNG]} if inputs is None else inputs, **spec)
        if change is not None:
            change(request)
        return client.predict(request)

    return call


def raw(**fields: Any) -> Callable[[Any], None]:
    """Replace the input by a hand-made TensorProto."""

    def change(request: Any) -> None:
        proto = request.inputs["image_bytes"]
        proto.Clear()
        shape = fields.pop("shape", None)
        for size in shape or ():
            proto.tensor_shape.dim.add(size=size)
        for name, value in fields.items():
            if isinstance(value, list):
                getattr(proto, name).extend(value)
            else:
                setattr(proto, name, value)
        fields["shape"] = shape

    return change


def outputs(*names: str) -> Callable[[Any], None]:
    return lambda request: request.output_filter.extend(names)


def metadata(fields=("signature_def",), name="htr", spec=True) -> Callable[[Client], Any]:
    def call(client: Client) -> Any:
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
        if spec:
            request.model_spec.name = name
        return client.prediction.GetModelMetadata(request, timeout=TIMEOUT)

    return call


def status(name: str, version: int | None = None) -> Callable[[Client], Any]:
    return lambda client: client.status(name, version)


def reload(**entry: Any) -> Callable[[Client], Any]:
    return lambda client: client.reload([{"name": "htr", **entry}])


RANK = dict(
    embedded=r"^input image_bytes has shape \[.*\], but the signature serving_default takes \[\?\]$",
    reason="shapes are checked against the signature before the graph runs, since some kernels abort the process "
    "on a wrong rank; --check_input_shapes=false gives the graph's own text",
)
DEFAULT_INPUT = "serving_default_image_bytes:0"

ROWS = [
    Row("no model_spec", INVALID, "Missing ModelSpec", predict(change=lambda r: r.ClearField("model_spec"))),
    Row("no name", INVALID, "ModelSpec has no name specified.", predict(model="")),
    Row("unknown model", NOT_FOUND, "Servable not found for request: Latest(nope)", predict(model="nope")),
    Row("unknown version", NOT_FOUND, "Servable not found for request: Specific(htr, 99)", predict(version=99)),
    Row("unknown label", INVALID, "Unrecognized servable version label: canary", predict(label="canary")),
    Row(
        "unknown signature",
        "FAILED_PRECONDITION",
        'Serving signature key "zzz" not found.',
        predict(signature="zzz"),
    ),
    Row(
        "no inputs",
        INVALID,
        "input size does not match signature: 0!=1 len({}) != len({image_bytes}). Sent extra: {}. "
        "Missing but required: {image_bytes}.",
        predict({}),
    ),
    Row(
        "extra input",
        INVALID,
        "input size does not match signature: 2!=1 len({image_bytes,more}) != len({image_bytes}). "
        "Sent extra: {more}. Missing but required: {}.",
        predict({"image_bytes": [PNG], "more": [1]}),
    ),
    Row(
        "wrong input name",
        INVALID,
        f"Signature input alias: image_bytes(feed name: {DEFAULT_INPUT}) not found in request and no default value "
        "provided. Inputs expected to be in the request {img}, or default input alias set: ",
        predict({"img": [PNG]}),
    ),
    Row("wrong dtype", INVALID, "Expects arg[0] to be string but float is provided", predict({"image_bytes": [1.0]})),
    Row(
        "tensor_content does not fit",
        INVALID,
        "tensor parsing error: image_bytes",
        predict(change=raw(dtype=1, shape=[4], tensor_content=b"\0" * 7)),
    ),
    Row("DT_INVALID", INVALID, "tensor parsing error: image_bytes", predict(change=raw(dtype=0, shape=[1]))),
    Row("unknown rank", INVALID, "^(?s:.+)", predict(change=lambda r: _unknown_rank(r)), **RANK),
    Row(
        "rank 0", INVALID, rf"^slice index 0 of dimension 0 out of bounds.{NODE}", predict({"image_bytes": PNG}), **RANK
    ),
    Row("rank 2", INVALID, "^(?s:.+)", predict({"image_bytes": [[PNG, PNG]]}), **RANK),
    Row(
        "garbage image",
        INVALID,
        rf"^Unknown image file format. One of JPEG, (JPEG XL, )?PNG, GIF, BMP(, WebP)? required.{NODE}",
        predict({"image_bytes": [b"garbage"]}),
    ),
    Row("empty image", INVALID, rf"^Input is empty.{NODE}", predict({"image_bytes": [b""]})),
    Row("truncated image", INVALID, rf"^Invalid PNG data, size 200{NODE}", predict({"image_bytes": [PNG[:200]]})),
    Row(
        "unknown output",
        INVALID,
        "output tensor alias not found in signature: nope Outputs expected to be in the set {frames,log_probs}.",
        predict(change=outputs("nope")),
    ),
    Row("output twice", INVALID, "duplicate output tensor alias: frames", predict(change=outputs("frames", "frames"))),
    Row(
        "40 MB request",
        INVALID,
        "^Unknown image file format.",
        predict({"image_bytes": [b"x" * (40 << 20)]}),
    ),
    Row(
        "metadata without field",
        INVALID,
        "GetModelMetadataRequest must specify at least one metadata_field",
        metadata(fields=()),
    ),
    Row("metadata field", INVALID, "Metadata field bogus is not supported", metadata(fields=("bogus",))),
    Row("metadata without spec", INVALID, "Missing ModelSpec", metadata(spec=False)),
    Row(
        "metadata of unknown model",
        NOT_FOUND,
        "Servable not found for request: Latest(nope)",
        metadata(name="nope"),
    ),
    Row(
        "status without spec",
        INVALID,
        "Missing ModelSpec",
        lambda client: client.model.GetModelStatus(get_model_status_pb2.GetModelStatusRequest(), timeout=TIMEOUT),
    ),
    Row("status of unknown model", NOT_FOUND, "Could not find any versions of model nope", status("nope")),
    Row("status of unknown version", NOT_FOUND, "Could not find version 9 of model htr", status("htr", 9)),
    Row(
        "empty reload",
        INVALID,
        "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
        "supported",
        lambda client: client.model.HandleReloadConfigRequest(
            model_management_pb2.ReloadConfigRequest(), timeout=TIMEOUT
        ),
    ),
    Row(
        "reload with relative path",
        INVALID,
        "Expected model htr to have an absolute path or URI; got base_path()=rel",
        reload(base_path="rel"),
    ),
    Row(
        "reload without platform",
        INVALID,
        "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform, "
        "model name is htr",
        reload(base_path="/models/htr", platform=""),
    ),
    Row(
        "reload with a name twice",
        INVALID,
        "Illegal to list model htr multiple times in config list",
        lambda client: client.reload([{"name": "htr", "base_path": "/a"}, {"name": "htr", "base_path": "/b"}]),
    ),
    Row(
        "malformed protobuf",
        "INTERNAL",
        "",
        lambda client: client.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")(
            b"\xff\xff\xff", timeout=TIMEOUT
        ),
    ),
    Row(
        "unknown method",
        "UNIMPLEMENTED",
        "",
        lambda client: client.channel.unary_unary("/tensorflow.serving.PredictionService/Nope")(b"", timeout=TIMEOUT),
    ),
    Row(
        "reflection",
        "UNIMPLEMENTED",
        "",
        lambda client: next(
            client.channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(
                iter([b""]), timeout=TIMEOUT
            )
        ),
    ),
    Row("unknown health name", NOT_FOUND, "service name unknown", lambda client: client.health("nope")),
    Row(
        "malformed health request",
        INVALID,
        "could not parse request",
        lambda client: client.channel.unary_unary("/grpc.health.v1.Health/Check")(b"\xff\xff", timeout=TIMEOUT),
    ),
    Row(
        "deadline",
        "DEADLINE_EXCEEDED",
        "Deadline Exceeded",
        lambda client: client.predict(toy.predict_request({"rounds": [20000]}, "burn"), timeout=0.2),
    ),
]


def _unknown_rank(request: Any) -> None:
    request.inputs["image_bytes"].tensor_shape.Clear()
    request.inputs["image_bytes"].tensor_shape.unknown_rank = True


def check(row: Row, client: Client, embedded: bool) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        row.call(client)
    message = row.embedded if embedded and row.embedded else row.message
    details = failure.value.details() or ""
    assert failure.value.code().name == row.code, details
    if message.startswith("^"):
        assert re.match(message, details, re.DOTALL), details
    else:
        assert details == message


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_refused(row: Row, client: Client, target) -> None:
    check(row, client, target.embedded)


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


def test_who_is_refused_may_come_again(target) -> None:
    """A refusal does not commit the call: the policy that `htr_client` gives to its channels gets every answer."""
    request = toy.predict_request({"rounds": [300]}, "burn")
    with Client(target.address, options=channel_options(None, 1 << 20)) as many:
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

    def test_a_bad_picture_among_good_ones(self, batching: Client, target) -> None:
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
