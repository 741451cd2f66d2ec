"""Reading ahead of the writer, and Ctrl-C at a moment that must not be torn apart."""

import itertools
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from taskgate.importing.prefetch import prefetch
from taskgate.stores.writing.interrupts import interrupts_held


def running() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "ahead"]


def wait_until_none_runs() -> None:
    deadline = time.monotonic() + 2
    while running() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert running() == []


def test_items_come_in_order_and_the_thread_ends() -> None:
    assert list(prefetch(iter(range(1000)), 3)) == list(range(1000))
    wait_until_none_runs()


def test_no_more_than_so_many_items_are_made_ahead() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    results = prefetch(items(), 3)
    assert next(results) == 0
    time.sleep(0.1)  # on purpose: nothing happens
    assert len(made) <= 6  # one taken, three waiting, one on its way
    assert list(results) == list(range(1, 100))


def test_error_of_the_thread_is_raised_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("broken")

    results = prefetch(items(), 3)
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(ValueError, match="broken"):
        next(results)
    wait_until_none_runs()


def test_closing_ends_a_thread_that_has_more_to_give() -> None:
    four_made = threading.Event()

    def items() -> Iterator[int]:
        for number in itertools.count():
            if number == 4:  # of which one was taken and three wait
                four_made.set()
            yield number

    results = prefetch(items(), 3)
    assert next(results) == 0
    assert four_made.wait(10)
    results.close()
    wait_until_none_runs()


def test_interrupt_takes_effect_behind_the_block_and_only_there() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - where it is raised is the point
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            done.append("block")
        done.append("behind")
    assert done == ["block"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_error_in_the_block_is_not_lost_to_an_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, interrupts_held():  # noqa: PT012 - what is raised is the point
        signal.raise_signal(signal.SIGINT)
        raise ValueError("broken")
    assert isinstance(caught.value.__context__, ValueError)


def test_other_threads_may_hold_interrupts_too() -> None:
    results: list[bool] = []

    def work() -> None:
        with interrupts_held():
            results.append(signal.getsignal(signal.SIGINT) is signal.default_int_handler)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == [True]
