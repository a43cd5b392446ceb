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
    found["old.key"], found["old.pem"] = authority.issue("localhost", days=-1)
    found["old.ca"] = Authority("ours", days=-1).pem()
    found["both.ca"] = found["old.ca"] + Authority("ours", days=20).pem()
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
        ("old.key", "old.pem", "ca", "old.pem"),
        ("server.key", "server.pem", "old.ca", "old.ca"),
    ],
)
def test_files_that_no_server_should_start_with_are_refused(pems, tmp_path, capsys, key, certificate, ca, named):
    (tmp_path / "ssl.config").write_text("the one that is in use")
    command = ["ssl-config", str(pems / key), str(pems / certificate), "--ca", str(pems / ca)]
    for output in ([], ["--output", str(tmp_path / "ssl.config")]):
        assert main([*command, *output]) == 2
        shown = capsys.readouterr()
        assert not shown.out and shown.err.startswith("error: ") and str(pems / named) in shown.err
    assert (tmp_path / "ssl.config").read_text() == "the one that is in use"


def test_a_file_is_replaced_by_one_for_its_owner_alone_which_tells_what_soon_expires(pems, tmp_path, capsys):
    file = tmp_path / "ssl.config"
    file.write_text("the one that is in use")
    file.chmod(0o444)
    paths = [str(pems / name) for name in ("server.key", "server.pem", "both.ca")]
    assert main(["ssl-config", *paths[:2], "--ca", paths[2], "--output", str(file)]) == 0
    shown = capsys.readouterr()
    assert not shown.out and shown.err == f"warning: {paths[1]} expires in 1.0 days\n"
    assert file.stat().st_mode & 0o777 == 0o600 and list(tmp_path.iterdir()) == [file]
    message = protos.read_text_proto(file, protos.SSLConfig())
    assert message.server_cert == (pems / "server.pem").read_text()


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
