"""TLS and mutual TLS, with certificates of an authority that is made for the test."""

from __future__ import annotations

import json

import grpc
import pytest
from serving_authority import Authority
from serving_client import Client, fails

from serving.server import EmbeddedServer
from serving.status import ServingError

FAST = {"port": 0, "model_name": "htr", "max_num_load_retries": 0, "tensorflow_session_parallelism": 1}


@pytest.mark.parametrize(("line", "settings", "message"), [
    ("", {"ui_port": -1}, "--ui and --ssl_config_file exclude each other"),
    ("client_verify: true", {}, "SSLConfig: Illegal to require client auth without providing root certificates"),
])  # fmt: skip
def test_settings_that_contradict_each_other(base, tmp_path, line, settings, message):
    key, certificate = Authority("ours").issue("localhost")
    lines = [f"server_key: {json.dumps(key.decode())}", f"server_cert: {json.dumps(certificate.decode())}", line]
    (tmp_path / "ssl.config").write_text("\n".join(lines))
    with pytest.raises(ServingError, match=f"^INVALID_ARGUMENT: .*{message}"):
        EmbeddedServer(
            model_base_path=str(base), **FAST, ssl_config_file=str(tmp_path / "ssl.config"), **settings
        ).start()


@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mtls"])
def test_tls(base, tmp_path, mutual):
    authority, stranger = Authority("ours"), Authority("theirs")
    key, certificate = authority.issue("localhost")
    lines = [f"server_key: {json.dumps(key.decode())}", f"server_cert: {json.dumps(certificate.decode())}"]
    if mutual:
        lines += [f"custom_ca: {json.dumps(authority.pem().decode())}", "client_verify: true"]
    file = tmp_path / "ssl.config"
    file.write_text("\n".join(lines))

    def answer(*args) -> str:
        with Client(f"localhost:{secure.port}", grpc.ssl_channel_credentials(*args)) as client:
            try:
                return (client.states() and "OK") or fails(client.status)[0]
            except grpc.RpcError as error:
                return error.code().name

    with EmbeddedServer(model_base_path=str(base), **FAST, ssl_config_file=str(file)) as secure:
        assert answer(authority.pem(), *authority.issue("client")) == "OK"
        assert answer(authority.pem()) == ("UNAVAILABLE" if mutual else "OK")
        if mutual:
            assert answer(authority.pem(), *stranger.issue("client")) == "UNAVAILABLE"
            assert answer(authority.pem(), *authority.issue("client", days=-1)) == "UNAVAILABLE"
        assert answer(stranger.pem(), *authority.issue("client")) == "UNAVAILABLE"
        with Client(secure.address) as plain:
            assert fails(plain.status)[0] == "UNAVAILABLE"
