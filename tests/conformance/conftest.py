from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "serving")]


@dataclass
class Target:
    """The server under test: the embedded one, or HTR_TFS_ADDR."""

    address: str
    rest: str
    batching: str
    spare: str  # a server that a test may spoil
    base: str
    embedded: bool


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    if os.environ.get("HTR_TFS_ADDR"):
        yield Target(
            os.environ["HTR_TFS_ADDR"],
            os.environ.get("HTR_TFS_REST", ""),
            os.environ.get("HTR_TFS_BATCH_ADDR", ""),
            os.environ.get("HTR_TFS_SPARE_ADDR", ""),
            os.environ.get("HTR_TFS_BASE", "/models/htr"),
            embedded=False,
        )
        return
    import prepare

    from serving.server import EmbeddedServer

    folder = tmp_path_factory.mktemp("conformance")
    prepare.lay_out(folder, str(folder / "htr"))
    common = {"port": 0, "max_num_load_retries": 0, "tensorflow_session_parallelism": 1}
    plain = EmbeddedServer(
        **common,
        model_config_file=str(folder / "models.config"),
        monitoring_config_file=str(folder / "monitoring.config"),
        rest_api_port=-1,
        grpc_max_threads=8,
    )
    batching = EmbeddedServer(
        **common,
        model_name="htr",
        model_base_path=str(folder / "batching" / "htr"),
        enable_batching=True,
        batching_parameters_file=str(folder / "batching.config"),
        grpc_max_threads=64,
    )
    spare = EmbeddedServer(**common, model_name="htr", model_base_path=str(folder / "batching" / "htr"))
    with plain, batching, spare:
        base = str(folder / "htr")
        yield Target(plain.address, plain.rest_address, batching.address, spare.address, base, embedded=True)


@pytest.fixture(scope="module")
def client(target: Target):
    from serving_client import Client

    with Client(target.address) as connected:
        for version in (1, 2):
            connected.wait_state(version, 30)
        yield connected
