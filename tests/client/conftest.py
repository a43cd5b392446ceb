import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_server import FakeServer
from hypothesis import settings

# On a loaded machine a single example can take any time; what is tested is results.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture
def server():
    running = FakeServer()
    yield running
    running.stop()
