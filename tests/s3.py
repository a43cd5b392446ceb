"""An S3 server of the tests' own: moto's, as a process, with credentials that it can be told to refuse."""

import contextlib
import os
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from unittest import mock

_SERVER = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel("ERROR")
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


class Server:
    """The server; its address and credentials are in this process's environment, where all libraries look."""

    def __init__(self, address: str):
        self.address = address

    def bucket(self) -> str:
        """Address of a new bucket."""
        import fsspec

        name = f"htr-{uuid.uuid4().hex}"
        fsspec.filesystem("s3", use_listings_cache=False).mkdir(name)
        return f"s3://{name}"

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Until the block ends, credentials are checked, and nobody has any."""
        self._let_in(0)
        try:
            yield
        finally:
            self._let_in(10**9)

    def _let_in(self, requests: int) -> None:
        address = f"{self.address}/moto-api/reset-auth"
        plain = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(address, str(requests).encode(), plain, method="POST")).close()


@contextlib.contextmanager
def serve() -> Iterator[Server]:
    """Yields a running server."""
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        address = f"http://127.0.0.1:{process.stdout.readline().strip()}"
        environment = {
            "AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }  # fmt: skip
        with mock.patch.dict(os.environ, environment):
            yield Server(address)
        process.stdin.close()
        process.wait()
