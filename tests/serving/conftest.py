from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def toy_model() -> Path:
    import serving_toy

    return serving_toy.cached_model()


@pytest.fixture(scope="session")
def image() -> bytes:
    import serving_toy

    return serving_toy.png()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Path:
    """A directory with version 1 of the toy model."""
    import serving_toy

    folder = tmp_path_factory.mktemp("models") / "htr"
    serving_toy.push(toy_model, folder, 1)
    return folder


@pytest.fixture
def model():
    from htr_client.testing import FakeServer

    server = FakeServer()
    yield server
    server.stop()


@pytest.fixture
def page(model):
    from serving import ui

    server = ui.UiServer(model.address, "htr", "127.0.0.1", 0)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from browser import Browser

    made = Browser(tmp_path_factory.mktemp("browser"))
    yield made
    made.close()


@pytest.fixture
def workspace(tmp_path, toy_model):
    """Two good versions of the toy model, as a pipeline lays them out."""
    import serving_toy as toy

    for number in (1, 2):
        toy.push(toy_model, tmp_path / "serving_model" / "htr", number)
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    from serving.rollout import change, moving

    monkeypatch.setattr(moving, "_SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(change, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(change, "_STALE_SECONDS", 0.5)
