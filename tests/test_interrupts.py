"""Work that has begun is finished, and the interrupt that broke in is raised after it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from graft.interrupts import finish, hold_signals


@pytest.fixture
def heard() -> Iterator[list[str]]:
    """Record the signals that a SIGTERM handler of one's own gets."""
    came: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda *_: came.append("term"))
    yield came
    signal.signal(signal.SIGTERM, before)


def test_signals_come_at_the_end_of_the_block_once_each_and_the_handlers_are_back(heard: list[str]) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    signal.raise_signal(signal.SIGTERM)
    assert heard == ["term"]  # the control
    done = []

    def block() -> None:
        with hold_signals():
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGTERM)
            done.append(list(heard))

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == [["term"]]
    assert heard == ["term"] * 2  # also where the other was let out first
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_blocks_within_blocks_and_errors_of_the_block() -> None:
    done = []

    def block() -> None:
        with hold_signals():
            with hold_signals():
                signal.raise_signal(signal.SIGINT)
                done.append("inner")
            done.append("outer")
            raise ValueError

    with pytest.raises(KeyboardInterrupt) as caught:
        block()
    assert done == ["inner", "outer"]
    assert isinstance(caught.value.__context__, ValueError)


def test_in_another_thread_nothing_is_held() -> None:
    seen = []

    def work() -> None:
        with hold_signals():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


def test_work_is_begun_again_until_it_is_done_and_errors_are_let_out_at_once() -> None:
    assert finish(lambda: 7) == 7
    tries: list[int] = []

    def interrupted() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise KeyboardInterrupt(len(tries))

    with pytest.raises(KeyboardInterrupt, match="1"):
        finish(interrupted)
    assert len(tries) == 3

    def hopeless() -> None:
        tries.append(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finish(hopeless)
    assert tries.count(2) == 10

    def wrong() -> None:
        tries.append(3)
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        finish(wrong)
    assert tries.count(3) == 1
