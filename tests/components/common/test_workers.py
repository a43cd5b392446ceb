"""The pool of worker processes, which are copies of the one that asks them."""

import gc
import os

import pytest

from components.common.workers import worker_pool


class Unforkable:
    """As objects of gRPC: collected in a copy of their process, they wait for a thread that is not there."""

    def __init__(self):
        self.process, self.itself = os.getpid(), self  # only the collector finds it

    def __del__(self):
        while os.getpid() != self.process:
            pass


def told(number):
    gc.collect()
    return number, os.getpid()


def test_workers_collect_nothing_of_the_process_that_made_them():
    Unforkable()
    late = [Unforkable()]
    with worker_pool() as pool:
        late.pop()
        answers = list(pool.map(told, range(20), timeout=60))
    assert [number for number, _ in answers] == list(range(20))
    assert os.getpid() not in {process for _, process in answers}


@pytest.fixture
def thawed():
    gc.unfreeze()
    yield
    gc.freeze()


def test_what_a_process_has_is_collected_in_it_again_afterwards(thawed):
    with worker_pool() as pool:
        assert pool.submit(told, 1).result()[0] == 1
    assert gc.get_freeze_count() == 0


def test_what_a_process_has_frozen_itself_stays_so(thawed):
    gc.freeze()
    frozen = gc.get_freeze_count()
    with worker_pool() as pool:
        assert pool.submit(told, 1).result()[0] == 1
    assert gc.get_freeze_count() > frozen / 2 > 0, "but for the few that have gone since"


def test_there_are_as_many_workers_as_usable_cores():
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mine)})
    try:
        with worker_pool() as pool:
            assert len({process for _, process in pool.map(told, range(20))}) == 1
    finally:
        os.sched_setaffinity(0, mine)
