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
