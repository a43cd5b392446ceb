"""What TensorFlow Serving 2.16.1 refuses over gRPC, row by row, as it was measured there.

The same rows run against the embedded server (default) or any address in HTR_TFS_ADDR.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import serving_toy as toy
from conformance_rows import INVALID, NODE, NOT_FOUND, PNG, RANK, Row, check, outputs, predict, raw
from serving_client import TIMEOUT, Client
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_management_pb2


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


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_refused(row: Row, client: Client, target) -> None:
    check(row, client, target.embedded)
