"""Processes that share the work of a command."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from components.common.stopping import follow_parent
from htr_client.cores import usable_cores


@contextlib.contextmanager
def worker_pool() -> Iterator[ProcessPoolExecutor]:
    """A pool with a process for each usable core; they end with this one.

    They are copies of this process without its threads. What it no longer needs is collected before they are made, and
    what it has now is never collected in them: objects of gRPC would wait there for a thread of theirs, for ever.
    Afterwards this process collects it again, unless it had frozen objects itself, which would thaw with the others.
    """
    frozen_before = gc.get_freeze_count()
    gc.collect()
    gc.freeze()
    try:
        fork = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(usable_cores(), mp_context=fork, initializer=follow_parent) as pool:
            yield pool
    finally:
        if not frozen_before:
            gc.unfreeze()
