"""Work done ahead: in order, no more than was said, and errors at their turn."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.common.ahead import ahead


@given(st.lists(st.integers()), st.integers(1, 4), st.none() | st.integers(1, 9))
def test_results_come_in_the_order_of_their_items(items, threads, most):
    assert list(ahead(lambda item: item + 1, items, threads, most)) == [item + 1 for item in items]


@given(st.integers(1, 4), st.none() | st.integers(1, 9), st.integers(1, 20))
def test_no_more_items_are_taken_than_may_wait(threads, most, count):
    taken = []
    results = ahead(lambda item: item, (taken.append(i) or i for i in range(count)), threads, most)
    assert not taken
    for done, _ in enumerate(results, 1):
        assert len(taken) <= done - 1 + (most or threads + 1)
    assert len(taken) == count


def test_what_waits_is_done_at_once():
    both = threading.Barrier(2, timeout=20)  # breaks, and fails the test, where one waits for the other

    assert list(ahead(lambda _: both.wait() >= 0, range(4), threads=2, most=2)) == [True] * 4


def test_an_error_comes_at_the_turn_of_its_item():
    results = ahead(lambda item: 6 // item, [3, 2, 0, 1], threads=2)
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert not list(results)


def test_whoever_stops_early_leaves_no_thread_behind():
    results = ahead(lambda item: item, range(100), threads=2)
    assert next(results) == 0
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
