import asyncio
import random
import shutil
import subprocess

import grpc
import pytest

from htr_client import AsyncHtrClient, HtrClient
from htr_client.cli import main
from htr_client.testing import ALPHABET, FakeServer


def words(count, seed=0):
    """Words that the fake server reads."""
    rng = random.Random(seed)
    return ["".join(rng.choices(ALPHABET, k=rng.randint(1, 12))) for _ in range(count)]


def refuse(model, why):
    """Has a model of a server refuse with RESOURCE_EXHAUSTED what `why` gives words for, given the request.

    Returns the numbers of images that were refused.
    """
    answer, refused = model.predict, []

    def predict(request, context):
        if words := why(request):
            refused.append(len(request.inputs["image_bytes"].string_val))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, words)
        return answer(request, context)

    model.predict = predict
    return refused


@pytest.fixture
def server():
    running = FakeServer()
    yield running
    running.stop()


@pytest.fixture
def call(server, capsys):
    """Runs `htr-client` against the server; returns exit code, output and error output."""

    def run_main(*arguments):
        code = main([*map(str, arguments), "--server", server.address])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_main


class Blocking:
    """AsyncHtrClient with the face of HtrClient, so that both run through the same tests."""

    def __init__(self, *args, **settings):
        self._loop = asyncio.new_event_loop()
        self._client = AsyncHtrClient(*args, **settings)
        self.metrics = self._client.metrics

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._loop.run_until_complete(self._client.close())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def close(self):
        """By another thread, while a call goes on."""
        asyncio.run_coroutine_threadsafe(self._client.close(), self._loop)

    def connect(self, timeout):
        self._loop.run_until_complete(self._client.connect(timeout))

    def transcribe(self, image, **options):
        return self._loop.run_until_complete(self._client.transcribe(image, **options))

    def transcribe_many(self, images, **options):
        return self._results(self._client.transcribe_many(images, **options))

    def _results(self, results):
        try:
            while True:
                try:
                    result = self._loop.run_until_complete(anext(results))
                except StopAsyncIteration:
                    return
                yield result
        finally:
            self._loop.run_until_complete(results.aclose())

    def find_page(self, image, **options):
        return self._loop.run_until_complete(self._client.find_page(image, **options))

    def transcribe_page(self, image, **options):
        return self._loop.run_until_complete(self._client.transcribe_page(image, **options))

    def model_status(self):
        return self._loop.run_until_complete(self._client.model_status())

    def wait_until_ready(self, timeout):
        self._loop.run_until_complete(self._client.wait_until_ready(timeout))


@pytest.fixture(params=[HtrClient, Blocking], ids=["sync", "async"])
def kind(request):
    return request.param


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """A certificate authority, a server's and a client's certificate, made by the openssl command."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command")
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*args):
        subprocess.run(["openssl", *args], cwd=folder, check=True, capture_output=True)

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test authority")
    for name, alternative in (("server", "DNS:htr.internal"), ("client", "DNS:client")):
        openssl("req", *curve, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "extensions").write_text(f"subjectAltName={alternative}\n")
        openssl(
            *f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days 2".split(),
            "-extfile",
            "extensions",
        )
    return folder


@pytest.fixture
def client(kind, server):
    with kind(server.address, patience=5.0) as made:
        yield made
