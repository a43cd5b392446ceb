"""`ssl-config` writes what the server can start with, and mutual TLS only with somebody to trust."""

from __future__ import annotations

import shutil

import pytest
from serving_authority import Authority

from serving import protos
from serving.configuration.__main__ import main
from serving.configuration.settings import FOLDER

pytestmark = pytest.mark.either_stack


@pytest.fixture(scope="module")
def pems(tmp_path_factory):
    """A folder with key and certificate of a server, others that do not fit, and authorities."""
    from cryptography.hazmat.primitives import serialization

    folder = tmp_path_factory.mktemp("pems")
    authority = Authority("ours")
    found = {"ca": authority.pem(), "empty": b"", "latin": "friendlyName: M\xfcller\n".encode("latin-1")}
    for name in ("server", "other"):
        found[f"{name}.key"], found[f"{name}.pem"] = authority.issue("localhost")
    found["named"] = "friendlyName: M\xfcller\n".encode() + authority.pem()
    key = serialization.load_pem_private_key(found["server.key"], None)
    kind, encryption = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    found["encrypted.key"] = key.private_bytes(serialization.Encoding.PEM, kind, encryption)
    for name, data in found.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize(
    ("key", "certificate", "ca", "named"),
    [
        ("server.key", "server.pem", "empty", "empty"),
        ("server.key", "server.pem", "server.key", "server.key"),
        ("server.pem", "server.key", "ca", "server.pem"),
        ("other.key", "server.pem", "ca", "other.key"),
        ("encrypted.key", "server.pem", "ca", "encrypted.key"),
        ("server.key", "empty", "ca", "empty"),
        ("server.key", "latin", "ca", "latin"),
        ("server.key", "missing", "ca", "missing"),
    ],
)
def test_files_that_no_server_should_start_with_are_refused(pems, capsys, key, certificate, ca, named):
    assert main(["ssl-config", str(pems / key), str(pems / certificate), "--ca", str(pems / ca)]) == 2
    shown = capsys.readouterr()
    assert not shown.out and shown.err.startswith("error: ") and str(pems / named) in shown.err


def test_a_name_that_is_not_ascii_beside_a_certificate_is_kept(pems, tmp_path, capsys):
    paths = [str(pems / name) for name in ("server.key", "server.pem", "named")]
    assert main(["ssl-config", *paths[:2], "--ca", paths[2]]) == 0
    (tmp_path / "ssl.config").write_text(capsys.readouterr().out)
    message = protos.read_text_proto(tmp_path / "ssl.config", protos.SSLConfig())
    assert message.client_verify and message.custom_ca == (pems / "named").read_text(encoding="utf-8")


def test_settings_of_another_folder(pems, tmp_path, capsys):
    settings = tmp_path / "settings.yaml"
    shutil.copy(FOLDER / "settings.yaml", settings)
    settings.write_text(settings.read_text().replace("tls: mutual", "tls: server"))
    command = ["ssl-config", str(pems / "server.key"), str(pems / "server.pem"), "--folder", str(tmp_path)]
    assert main(command) == 0
    (tmp_path / "ssl.config").write_text(capsys.readouterr().out)
    message = protos.read_text_proto(tmp_path / "ssl.config", protos.SSLConfig())
    assert message.server_key and not message.client_verify and not message.custom_ca
    assert main([*command, "--ca", str(pems / "ca")]) == 2
    assert f"{settings} asks for no mutual TLS: omit --ca" in capsys.readouterr().err
