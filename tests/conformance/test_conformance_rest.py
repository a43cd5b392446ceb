"""What a client sees of TensorFlow Serving 2.16.1 over REST: HTTP status and body."""

from __future__ import annotations

import base64
import http.client
import json

import pytest
import serving_toy as toy

PNG64 = {"b64": base64.b64encode(toy.png()).decode()}
PREDICT = "/v1/models/htr:predict"


@pytest.fixture
def http_call(target, client):
    if not target.rest:
        pytest.skip("HTR_TFS_REST is not set")
    host, port = target.rest.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=20)

    def call(method: str, path: str, body=None):
        data = body if isinstance(body, (bytes, str, type(None))) else json.dumps(body)
        connection.request(method, path, data)
        response = connection.getresponse()
        text = response.read()
        is_json = text and response.getheader("Content-Type", "").startswith("application/json")
        return response.status, json.loads(text) if is_json else text

    yield call
    connection.close()


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        (PREDICT, {}, 400, "Missing 'inputs' or 'instances' key"),
        (PREDICT, "", 400, "JSON Parse error: The document is empty"),
        (PREDICT, "{", 400, "JSON Parse error: "),
        (PREDICT, "[1]", 400, "JSON Value: [1] Is not object"),
        (PREDICT, {"instances": []}, 400, "JSON Value: "),
        (PREDICT, {"instances": [1]}, 400, "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT"),
        (PREDICT, {"instances": [{"nope": "x"}]}, 400, "Failed to process element: 0 key: nope of 'instances' list."),
        (PREDICT, {"inputs": {"nope": "x"}}, 400, "Missing named input: image_bytes in 'inputs' object."),
        (PREDICT, {"instances": ["garbage"]}, 400, "Unknown image file format. One of JPEG, "),
        (PREDICT, {"instances": [{"b64": "@@@"}]}, 400, "Failed to process element: 0 of 'instances' list."),
        (PREDICT, {"instances": [{"b64": "QQ="}]}, 400, "Failed to process element: 0 of 'instances' list."),
        (PREDICT, {"signature_name": 1, "instances": ["x"]}, 400, "JSON Value: "),
        (
            PREDICT,
            {"signature_name": "zzz", "instances": ["x"]},
            400,
            'Serving signature name: "zzz" not found in signature def',
        ),
        ("/v1/models/nope:predict", {"instances": ["x"]}, 404, "Servable not found for request: Latest(nope)"),
        (
            "/v1/models/htr/versions/9:predict",
            {"instances": ["x"]},
            404,
            "Servable not found for request: Specific(htr, 9)",
        ),
        (
            "/v1/models/htr/labels/nope:predict",
            {"instances": ["x"]},
            400,
            "Unrecognized servable version label: nope",
        ),
        ("/v1/models/htr:nope", {}, 400, "Malformed request: POST /v1/models/htr:nope"),
        (PREDICT, '{"instances": ["x"]} trailing', 400, "JSON Parse error: "),
        (PREDICT, '{"instances": ["\\ud800"]}', 400, "JSON Parse error: "),
        (PREDICT, '{"instances": ["\\uD83D is half"]}', 400, "JSON Parse error: "),
        # Whether the model exists does not matter to a body that is no JSON.
        ("/v1/models/nope:predict", '{"instances": ["x"]} trailing', 400, "JSON Parse error: "),
        ("/v1/models/nope:predict", '["\\ud800"]', 400, "JSON Parse error: "),
    ],
)
def test_refused_post(http_call, path, body, status, error) -> None:
    got, answer = http_call("POST", path, body)
    assert (got, answer["error"][: len(error)]) == (status, error)


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        (PREDICT, 400, "Malformed request: GET /v1/models/htr:predict"),
        ("/v1/models/nope", 404, "Could not find any versions of model nope"),
        ("/v1/models/htr/versions/9", 404, "Could not find version 9 of model htr"),
        ("/v1/models/nope/metadata", 404, "Servable not found for request: Latest(nope)"),
        ("/v1/models", 400, "Missing model name in request."),
        ("/v1/models/htr?x=1", 404, "Could not find any versions of model htr?x=1"),
    ],
)
def test_refused_get(http_call, path, status, error) -> None:
    got, answer = http_call("GET", path)
    assert (got, answer) == (status, {"error": error})


@pytest.mark.parametrize("path", ["/elsewhere", "//v1/models/htr", "//v1/models/htr:predict", "/v1"])
def test_unknown_path(http_call, path) -> None:
    assert http_call("GET", path)[0] == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/v1/models/htr", PREDICT])
def test_other_methods(http_call, method, path) -> None:
    body = {"instances": [PNG64]} if method != "OPTIONS" else None
    status, answer = http_call(method, path, body)
    assert status == 400
    if method != "OPTIONS":
        assert answer == {"error": f"Malformed request: {method} {path}"}
    assert http_call("GET", "/v1/models/htr")[0] == 200  # on the same connection


def test_head(http_call) -> None:
    assert http_call("HEAD", "/v1/models/htr")[0] == 400
    assert http_call("GET", "/v1/models/htr")[0] == 200


@pytest.mark.parametrize("instance", [PNG64, {"image_bytes": PNG64}], ids=["plain", "named"])
def test_predict_by_row(http_call, instance) -> None:
    status, answer = http_call("POST", PREDICT, {"instances": [instance, instance]})
    assert status == 200 and list(answer) == ["predictions"]
    assert len(answer["predictions"]) == 2
    row = answer["predictions"][0]
    assert row["frames"] == toy.FRAMES
    assert (len(row["log_probs"]), len(row["log_probs"][0])) == (toy.FRAMES, toy.CLASSES)


def test_predict_by_column(http_call) -> None:
    body = {"signature_name": "transcribe", "inputs": {"image_bytes": [PNG64]}}
    status, answer = http_call("POST", "/v1/models/htr/versions/1:predict", body)
    assert status == 200
    assert answer["outputs"]["text"] == ["hand"] and 0 <= answer["outputs"]["confidence"][0] <= 1


@pytest.mark.parametrize(
    "text",
    [
        base64.encodebytes(toy.png()).decode(),
        PNG64["b64"][:9] + " \t\r\n" + PNG64["b64"][9:],
        PNG64["b64"].rstrip("="),
        PNG64["b64"].replace("=", "."),
    ],
    ids=["lines", "space", "unpadded", "dots"],
)
def test_base64_as_other_encoders_write_it(http_call, text) -> None:
    body = {"signature_name": "transcribe", "inputs": {"image_bytes": [{"b64": text}]}}
    assert http_call("POST", PREDICT, body)[0] == 200


def test_one_output_is_not_wrapped(http_call) -> None:
    body = {"signature_name": "alphabet", "instances": ["?"]}
    assert http_call("POST", PREDICT, body)[1] == {"predictions": [list(toy.ALPHABET)]}


def test_numbers(http_call) -> None:
    body = {"signature_name": "burn", "inputs": [0, 0, 0]}
    assert http_call("POST", PREDICT, body) == (200, {"outputs": [0, 0, 0]})
    body = {"signature_name": "burn", "inputs": [0.5]}
    status, answer = http_call("POST", PREDICT, body)
    assert status == 400 and "is not of expected type: int32" in answer["error"]


def test_status(http_call) -> None:
    status, answer = http_call("GET", "/v1/models/htr")
    assert status == 200
    rows = {row["version"]: row for row in answer["model_version_status"]}
    assert rows["2"] == {"version": "2", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert http_call("GET", "/v1/models/htr/versions/2")[1]["model_version_status"] == [rows["2"]]


def test_metadata(http_call) -> None:
    status, answer = http_call("GET", "/v1/models/htr/metadata")
    assert status == 200
    assert answer["model_spec"] == {"name": "htr", "signature_name": "", "version": "2"}
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["image_bytes"]["dtype"] == "DT_STRING"


def test_metrics(http_call) -> None:
    http_call("POST", PREDICT, {"instances": [PNG64]})
    status, page = http_call("GET", "/monitoring/prometheus/metrics")
    text = page.decode()
    assert status == 200
    for name in ("request_count", "request_latency", "runtime_latency", "model_warmup_latency"):
        assert f"# TYPE :tensorflow:serving:{name} " in text
    assert ':tensorflow:serving:request_count{model_name="htr",status="OK"}' in text
    assert 'entrypoint="REST"' in text


def test_requests_that_are_no_predictions_are_counted(http_call) -> None:
    """Alerts and dashboards tell them apart by the histogram's empty label."""

    def counted() -> dict[str, float]:
        page = http_call("GET", "/monitoring/prometheus/metrics")[1].decode()
        wanted = [f'request_count{{model_name="{name}",status="{status}"}} ' for name, status in asked]
        wanted.append('request_latency_count{model_name="htr",API="",entrypoint="REST"} ')
        return {name: float((page.partition(name)[2] or "0").split()[0]) for name in wanted}

    asked = {
        ("htr", "OK"): "/v1/models/htr/metadata",
        ("nope", "NOT_FOUND"): "/v1/models/nope",
        ("", "INVALID_ARGUMENT"): "/v1/models/htr/nope",
    }
    before = counted()
    for path in asked.values():
        http_call("GET", path)
    assert counted() == {name: count + 1 for name, count in before.items()}


@pytest.mark.parametrize("method", ["classify", "regress"])
def test_methods_of_other_models_are_refused(http_call, target, method) -> None:
    """The real server says that the signature does not fit; the embedded one that it has no such method."""
    status, answer = http_call("POST", f"/v1/models/htr:{method}", {"examples": [{"x": 1}]})
    assert status == (501 if target.embedded else 400)
    if target.embedded:
        assert answer == {"error": f"{method} is not implemented by the embedded server"}
