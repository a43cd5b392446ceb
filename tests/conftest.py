"""What several test modules share."""

import contextlib
import csv
import errno
import fcntl
import gc
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from tests.no_skips import pytest_make_collect_report, pytest_runtest_makereport  # noqa: F401

# Results are what is tested: on a loaded machine a single example can take any time. `make fuzz` is thorough.
settings.register_profile("quick", deadline=None, derandomize="CI" in os.environ)
settings.register_profile(
    "thorough", deadline=None, max_examples=1000, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile(os.environ.get("HTR_HYPOTHESIS_PROFILE", "quick"))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
gc.set_threshold(50_000)  # as htr's own processes have it, see pipeline/imports.py
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share the cores already
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests begin, and short ones fill up the end, where one process would wait for the other."""
    tests = Counter(item.path for item in items)
    long = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (long[item.path] < tests[item.path], -long[item.path]))


Value = TypeVar("Value")


def until(condition: Callable[[], Value], seconds: float = 30, told: Callable[[], object] = str) -> Value:
    """Waits for the first true value of a condition, and returns it.

    Args:
        condition: What is asked again and again.
        seconds: The test fails when so many are over.
        told: What the failure says beside the condition, which stands in its last line.
    """
    __tracebackhide__ = True
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {seconds} seconds {told()}".rstrip()
        time.sleep(0.01)
    return value


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is nine hours before UTC's, so that the one is not taken for the other."""
    monkeypatch.setenv("TZ", "JST-9")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def drawn_image(width: int = 90, height: int = 40, seed: int = 0, channels: int = 1) -> np.ndarray:
    """A light page with a few dark strokes, uint8 [height, width] or [height, width, channels]."""
    random = np.random.default_rng(seed)
    page = np.full((height, width), 235, np.uint8)
    for _ in range(6):
        ends = random.integers(0, [width, height], size=(2, 2))
        cv2.line(page, ends[0].tolist(), ends[1].tolist(), int(random.integers(0, 80)), 2)
    return page if channels == 1 else np.repeat(page[..., None], channels, axis=2)


def encode(image: np.ndarray, extension: str = ".png") -> bytes:
    """The image as a file."""
    return cv2.imencode(extension, image)[1].tobytes()


def write_dataset(folder: Path, rows: list[dict[str, str]], name: str = "labels.csv", delimiter: str = ",") -> Path:
    """Writes rows as a CSV and an image for every `filename` that does not exist yet."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / name, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    for number, row in enumerate(rows):
        path = folder / next(iter(row.values()))
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(drawn_image(120, 40, number), path.suffix.lower()))
    return folder


@contextlib.contextmanager
def failing_bucket(*endings: str) -> Iterator[None]:
    """Until the block ends, a bucket at memory:// lists its objects, but gives none whose name ends like this."""
    from fsspec.implementations.memory import MemoryFileSystem

    read = MemoryFileSystem.cat_file

    def refusing(self: MemoryFileSystem, path: str, *args: Any, **kwargs: Any) -> bytes:
        if path.endswith(endings):
            raise OSError("503 Slow Down")
        return read(self, path, *args, **kwargs)

    with mock.patch.object(MemoryFileSystem, "cat_file", refusing):
        yield


@contextlib.contextmanager
def failing_disk(ending: str) -> Iterator[None]:
    """Until the block ends, files whose path ends like this cannot be read: their network file system is away."""
    from components.common import storage

    read = storage.read

    def refusing(path: str, *args: Any) -> bytes:
        if path.endswith(ending):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
        return read(path, *args)

    with mock.patch.object(storage, "read", refusing):
        yield


@pytest.fixture(scope="module", autouse=True)
def _old_objects_are_passed_over() -> None:
    """The collector leaves out what imports and the tests before have left: a million objects in a long session.

    Each pool of `worker_pool` collects first, which took most of the time of small `htr check` and `htr drift`.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def once(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a folder that tests only read: once for all processes that `--numprocesses` starts."""

    def once(name: str, make: Callable[[Path], Any]) -> Path:
        if not hasattr(request.config, "workerinput"):
            make(folder := tmp_path_factory.mktemp(name))
            return folder
        folder = tmp_path_factory.getbasetemp().parent / f"once-{name}"
        made = folder.with_suffix(".made")
        with open(folder.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of one who failed
                folder.mkdir()
                make(folder)
                made.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def toy_version(once: Callable[..., Path]) -> Path:
    """A pushed version for lines that transcribes the toy script."""
    from tests.components import toy

    return once("version", toy.version) / toy.VERSION


@pytest.fixture
def base_models(toy_version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of base models, which holds the toy's for lines and no other, and an empty cache."""
    from components.base_model import packing

    monkeypatch.setattr(packing, "FOLDER", tmp_path / "files")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    packing.pack(str(toy_version), "line")
    return tmp_path / "files"


@pytest.fixture(scope="session")
def sample_data(once: Callable[..., Path]) -> Path:
    """A small sample dataset with some dirty rows."""
    from components.tools.sample_data import generate

    return once("sample", lambda folder: generate(folder / "data", 240, writers=16, dirty_fraction=0.05)) / "data"


@pytest.fixture(scope="session")
def s3():
    """A running S3 server, see `tests.s3.Server`."""
    from tests.s3 import serve

    with serve() as server:
        yield server


@pytest.fixture(scope="module")
def dask(tmp_path_factory):
    """A running Dask cluster with two workers, see `benchmarks.dask_cluster.Cluster`."""
    from benchmarks.dask_cluster import serve

    with serve(tmp_path_factory.mktemp("dask")) as cluster:
        yield cluster
