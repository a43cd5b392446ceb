"""A Dask cluster on this machine, for benchmarks and tests: a scheduler and workers with one thread, each a process."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import distributed

from pipeline.beam.options import pipeline_options
from pipeline.beam.settings import BeamConfig


class Cluster:
    """A running cluster.

    Attributes:
        address: Address of the scheduler.
        settings: Settings of the configuration, to run there.
        options: Options of Beam, likewise.
    """

    def __init__(self, address: str):
        self.address = address
        self.settings = ["beam.runner=dask", f"beam.address={address}"]
        self.options = pipeline_options(BeamConfig(runner="dask", address=address))

    @contextlib.contextmanager
    def busy(self) -> Iterator[set[str]]:
        """Yields a set that holds, when the block has ended, the workers that ran tasks in it."""
        workers: set[str] = set()
        with self._client() as client, distributed.get_task_stream(client) as stream:
            yield workers
        workers.update(task["worker"] for task in stream.data)

    def cpu_seconds(self) -> float:
        """CPU time of all workers so far."""
        with self._client() as client:
            return sum(client.run(time.process_time).values())

    def _client(self) -> distributed.Client:
        return distributed.Client(self.address, set_as_default=False)


@contextlib.contextmanager
def serve(folder: Path, workers: int = 2) -> Iterator[Cluster]:
    """Starts a cluster.

    Args:
        folder: Folder for its files.
        workers: Number of worker processes.

    Yields:
        The cluster, when all workers are there.
    """
    described, log = folder / "scheduler.json", folder / "dask.log"
    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--no-nanny", "--nthreads", "1"]
    places = ["--scheduler-file", str(described), "--no-dashboard"]
    commands = [[*scheduler, *places], *[[*worker, *places, "--local-directory", str(folder)]] * workers]
    # Workers find what this process finds, modules of tests included.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(open(log, "wb"))
        for command in commands:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
            # The last one first: workers whose scheduler has gone do not end by themselves.
            stack.callback(process.wait)
            stack.callback(process.kill)
        deadline = time.monotonic() + 120
        while not described.exists() or not described.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        address = json.loads(described.read_text())["address"]
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=120)
        yield Cluster(address)
