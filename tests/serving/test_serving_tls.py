"""TLS and mutual TLS, with certificates of an authority that is made for the test."""

from __future__ import annotations

import datetime
import json

import grpc
import pytest
from serving_client import Client, fails

from serving.server import EmbeddedServer

FAST = {"port": 0, "model_name": "htr", "max_num_load_retries": 0, "tensorflow_session_parallelism": 1}


class Authority:
    """A certificate authority for one test."""

    def __init__(self, name: str) -> None:
        self.key, self.certificate = self._issue(name, None)

    def _issue(self, name: str, issuer: Authority | None, days: int = 1):
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.certificate.subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(end - datetime.timedelta(days=3))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        )
        return key, builder.sign(issuer.key if issuer else key, hashes.SHA256())

    def pem(self) -> bytes:
        from cryptography.hazmat.primitives.serialization import Encoding

        return self.certificate.public_bytes(Encoding.PEM)

    def issue(self, name: str, days: int = 1) -> tuple[bytes, bytes]:
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        key, certificate = self._issue(name, self, days)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return private, certificate.public_bytes(Encoding.PEM)


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
