"""Uploading and starting, against a small HTTP server that answers as Kubeflow Pipelines' API does."""

import base64
import json
import re
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from pipeline import cli
from tests.serving.serving_authority import Authority


class Api(BaseHTTPRequestHandler):
    def _answer(self, body, status=200):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _handle(self):
        url, server = urlsplit(self.path), self.server
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = url.path.removeprefix("/pipeline/apis/v2beta1/")
        server.calls.append((self.command, path, query, body))
        server.seen.append((url.netloc, self.headers.get("Proxy-Authorization")))
        if server.token and self.headers.get("Authorization") != f"Bearer {server.token}":
            self._answer({"error": "no valid token", "code": 16}, 401)
        elif (self.command, path) == ("GET", "pipelines"):
            self._answer({"pipelines": server.pipelines})
        elif (self.command, path) == ("POST", "pipelines/upload"):
            server.pipelines.append({"pipeline_id": "p1", "display_name": query["name"]})
            self._answer(server.pipelines[0])
        elif (self.command, path) == ("POST", "pipelines/upload_version"):
            self._answer({"pipeline_id": query["pipelineid"], "pipeline_version_id": "v2"})
        elif (self.command, path) == ("GET", "pipelines/p1/versions"):
            self._answer({"pipeline_versions": [{"pipeline_id": "p1", "pipeline_version_id": "v1"}]})
        elif (self.command, path) == ("GET", "experiments"):
            self._answer({})
        elif (self.command, path) == ("POST", "experiments"):
            self._answer({**json.loads(body), "experiment_id": "e1"})
        elif (self.command, path) == ("POST", "runs"):
            self._answer({**json.loads(body), "run_id": "r1"})
        else:
            self._answer({"error": f"no {path}"}, 404)

    do_GET = do_POST = _handle

    def log_message(self, *_):
        pass


@pytest.fixture
def api():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    server.calls, server.pipelines, server.token, server.seen = [], [], None, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def submit(api, tmp_path, capsys):
    host = f"http://127.0.0.1:{api.server_port}/pipeline"

    def submit(*arguments):
        settings = ["push.model_dir=/models/htr", f"kubeflow.host={submit.host}", "kubeflow.namespace=team"]
        settings += ["kubeflow.service_account=runner", "kubeflow.pipeline_root=s3://bucket/htr"]
        settings += ["kubeflow.volumes={htr-models: /models}"]
        command = ["submit", "kubeflow", "--data", "/data", "--workspace", str(tmp_path), *arguments]
        code = cli.main(command + [f"--set={setting}" for setting in settings])
        return code, capsys.readouterr()

    submit.host = host
    return submit


def test_first_submission_uploads_the_pipeline_and_starts_it(api, submit):
    code, captured = submit()
    assert code == 0 and captured.out.strip() == f"{submit.host}/#/runs/details/r1"
    calls = {(method, path): (query, body) for method, path, query, body in api.calls}
    query, body = calls["POST", "pipelines/upload"]
    assert query == {"name": "htr", "namespace": "team"}
    assert b"schemaVersion: 2.1.0" in body and b"platforms:" in body
    assert json.loads(calls["POST", "experiments"][1]) == {"display_name": "htr", "namespace": "team"}
    run = json.loads(calls["POST", "runs"][1])
    assert run["pipeline_version_reference"] == {"pipeline_id": "p1", "pipeline_version_id": "v1"}
    assert run["experiment_id"] == "e1" and run["service_account"] == "runner"
    assert run["runtime_config"] == {"pipeline_root": "s3://bucket/htr"}


def test_next_submission_is_a_version_of_the_same_pipeline(api, submit):
    api.pipelines.append({"pipeline_id": "p1", "display_name": "htr"})
    assert submit()[0] == 0
    calls = {(method, path): (query, body) for method, path, query, body in api.calls}
    assert ("POST", "pipelines/upload") not in calls
    assert calls["POST", "pipelines/upload_version"][0]["pipelineid"] == "p1"
    assert json.loads(calls["POST", "runs"][1])["pipeline_version_reference"]["pipeline_version_id"] == "v2"


def test_token_is_sent_from_variable_or_file(api, submit, tmp_path, monkeypatch):
    api.token = "secret"
    code, captured = submit()
    assert code == 1 and "answered 401" in captured.err and "no valid token" in captured.err
    assert "HTR_KUBEFLOW_TOKEN" in captured.err and "Traceback" not in captured.err
    monkeypatch.setenv("HTR_KUBEFLOW_TOKEN", "secret")
    assert submit()[0] == 0
    monkeypatch.setenv("HTR_KUBEFLOW_TOKEN", "old")
    (tmp_path / "token").write_text("secret\n")
    assert submit("--token-file", str(tmp_path / "token"))[0] == 0
    assert submit("--token-file", str(tmp_path / "none"))[0] == cli.USAGE
    (tmp_path / "token").write_bytes(b"\xff\xfe")
    code, captured = submit("--token-file", str(tmp_path / "token"))
    assert code == cli.USAGE and f"{tmp_path}/token holds no token: it is not UTF-8" in captured.err


def test_a_token_with_a_line_break_around_it_is_sent(api, submit, monkeypatch):
    api.token = "secret"
    monkeypatch.setenv("HTR_KUBEFLOW_TOKEN", "secret\r\n")
    assert submit()[0] == 0


@pytest.mark.parametrize("token", ["s3cr3t\nmore", "s3cr3t more", "s3cr3t\N{EURO SIGN}", "s3cr3t\x07"])
@pytest.mark.parametrize("place", ["variable", "file"])
def test_what_cannot_be_a_token_is_refused_and_not_shown(submit, tmp_path, monkeypatch, token, place):
    (tmp_path / "token").write_text(token)
    monkeypatch.setenv("HTR_KUBEFLOW_TOKEN", token if place == "variable" else "another")
    code, captured = submit(*(["--token-file", str(tmp_path / "token")] if place == "file" else []))
    where = "HTR_KUBEFLOW_TOKEN" if place == "variable" else f"{tmp_path}/token"
    assert code == cli.USAGE and f"{where} holds no token: " in captured.err and "s3cr3t" not in captured.err
    assert not captured.out


def test_packages_that_are_missing_are_named(submit, monkeypatch):
    monkeypatch.setitem(sys.modules, "kfp_server_api", None)
    code, captured = submit()
    assert code == cli.USAGE and "pip install kfp-pipeline-spec kfp-server-api\n" in captured.err


def test_no_api_there_is_one_readable_sentence(tmp_path, capsys):
    settings = ["push.model_dir=gs://models/htr", "kubeflow.host=http://127.0.0.1:9"]
    command = ["submit", "kubeflow", "--data", "/data", "--workspace", str(tmp_path)]
    assert cli.main(command + [f"--set={setting}" for setting in settings]) == 1
    assert "No Kubeflow Pipelines API answers at http://127.0.0.1:9" in capsys.readouterr().err
    assert cli.main([*command, "--set=push.model_dir=gs://models/htr"]) == cli.USAGE
    (address,) = re.findall("kubeflow.host: name the address of .*(http://localhost.*)", capsys.readouterr().err)
    guide = (Path(cli.__file__).parents[1] / "docs" / "production.md").read_text()
    # The interface, which passes the API on: the API's own Service does not show the page of a run.
    service, port = re.search(rf"host: {address} +# kubectl port-forward service/(\S+) (\d+):80\n", guide).groups()
    assert service == "ml-pipeline-ui" and address.endswith(f":{port}")


def test_certificates_of_another_authority(api, submit, tmp_path, monkeypatch):
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    authority = Authority("ours")
    for name, pem in zip(("server.key", "server.pem"), authority.issue("localhost"), strict=True):
        (tmp_path / name).write_bytes(pem)
    (tmp_path / "ca.pem").write_bytes(authority.pem())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    api.socket = context.wrap_socket(api.socket, server_side=True)
    submit.host = submit.host.replace("http://127.0.0.1", "https://localhost")
    code, captured = submit()
    assert code == cli.ERROR and "Trusted are the authorities in certifi (SSL_CERT_FILE)." in captured.err
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    assert submit()[0] == 0


def test_the_proxy_of_the_environment_is_asked_but_not_for_this_machine(api, submit, monkeypatch):
    direct = submit.host
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://me:p%40ss@127.0.0.1:{api.server_port}")
    submit.host = "http://kubeflow.invalid/pipeline"
    assert submit()[0] == 0
    login = base64.b64encode(b"me:p@ss").decode()
    assert set(api.seen) == {("kubeflow.invalid", f"Basic {login}")}
    api.seen.clear()
    submit.host = direct
    assert submit()[0] == 0 and set(api.seen) == {("", None)}
