"""Work that is done ahead of whoever wants its results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

NETWORK_THREADS = 2
"""Batches that a network transcribes at once: an operation may have half of the cores (`runners.local_runner`)."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, most: int | None = None
) -> Iterator[Result]:
    """What a function makes of items, in their order, computed in threads before it is asked for.

    Args:
        function: Function of an item; it may wait, or compute outside Python, as TensorFlow does.
        items: Taken in the thread that takes the results, and not before their turn.
        threads: How many.
        most: Items that are under way or done and not yet taken; None for one more than there are threads.

    Raises:
        Exception: What the function raises, at the turn of its item.
    """
    source = iter(items)
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    try:
        while True:
            for item in islice(source, (most or threads + 1) - len(waiting)):
                waiting.append(pool.submit(function, item))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
