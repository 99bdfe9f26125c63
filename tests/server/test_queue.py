"""The queue and the batches: bounded, in order, and no larger than may be."""

from __future__ import annotations

import dataclasses
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.server.batching import Row, make_batches
from graft.server.jobs import CallJob, EmbedJob
from graft.server.limits import Limits
from graft.server.queue import JobQueue
from graft.server.refusal import Refusal

LIMITS = Limits(waiting=10, wait_seconds=0.05)


def job(n_rows: int) -> EmbedJob:
    return EmbedJob(rows=[Row([1], ())] * n_rows)


def test_jobs_are_taken_in_order_up_to_a_batch() -> None:
    queue = JobQueue(LIMITS)
    jobs = [job(3), job(4), job(2)]
    for item in jobs:
        queue.put(item)
    assert len(queue) == 9
    assert queue.take(8, block=True) == jobs[:2]
    assert queue.take(1, block=True) == jobs[2:]  # one may be larger than a batch
    assert queue.take(1, block=False) == []


def test_a_full_queue_refuses_until_there_is_room() -> None:
    queue = JobQueue(LIMITS)
    queue.put(job(30))  # alone it may be larger than the queue
    with pytest.raises(Refusal) as refused:
        queue.put(job(1))
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "1")
    queue.take(64, block=True)
    queue.put(job(1))


def test_others_may_share_a_batch_for_a_while() -> None:
    queue = JobQueue(dataclasses.replace(LIMITS, wait_seconds=30))
    taken: list[int] = []
    taker = threading.Thread(target=lambda: taken.append(len(queue.take(3, block=True))))
    taker.start()
    for _ in range(3):
        queue.put(job(1))
    taker.join(20)
    assert taken == [3]


def test_a_closed_queue_gives_what_waits_and_takes_no_more() -> None:
    queue = JobQueue(dataclasses.replace(LIMITS, wait_seconds=30))
    queue.put(CallJob(call=int))
    queue.close()
    with pytest.raises(Refusal) as refused:
        queue.put(job(1))
    assert refused.value.status == 503
    assert len(queue.take(8, block=True)) == 1
    assert queue.take(8, block=True) == []


@given(
    st.lists(st.tuples(st.integers(1, 40), st.sampled_from(["", "a", "b"])), min_size=1, max_size=60),
    st.integers(1, 8),
    st.integers(1, 100),
)
def test_batches_hold_every_row_once_and_no_more_than_may_be(
    drawn: list[tuple[int, str]], most_rows: int, most_tokens: int
) -> None:
    rows = [Row([0] * n, (name,) if name else ()) for n, name in drawn]
    batches = list(make_batches(rows, most_rows, most_tokens))
    assert sorted(i for batch in batches for i in batch) == list(range(len(rows)))
    for batch in batches:
        assert len(batch) <= most_rows
        assert len(batch) == 1 or len(batch) * max(len(rows[i].ids) for i in batch) <= most_tokens
        assert [rows[i].skills for i in batch] == sorted(rows[i].skills for i in batch)
