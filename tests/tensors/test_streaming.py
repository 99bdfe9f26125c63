from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from graft.tensors import streaming
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.streaming import stream_tensors
from tests.checkpoints import sample_tensors, write_single


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint.open(write_single(tmp_path / "model", sample_tensors()))


@pytest.fixture(params=[False, True], ids=["here", "in threads"])
def threaded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Whether the tensors count as large, while PyTorch has three threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    if request.param:
        monkeypatch.setattr(streaming, "SMALL", 0)
    yield request.param
    torch.set_num_threads(before)


def test_work_is_done_in_order_by_one_thread_of_pytorchs_each(checkpoint: Checkpoint, threaded: bool) -> None:
    def work(name: str) -> tuple[str, float, int, bool]:
        here = threading.current_thread() is threading.main_thread()
        return name, float(checkpoint.read(name).sum()), torch.get_num_threads(), here

    names = checkpoint.names[::-1]
    found = list(stream_tensors(work, names, lambda name: [(checkpoint, name)], "sums"))
    assert found == [(name, float(checkpoint.read(name).sum()), 1, not threaded) for name in names]
    assert torch.get_num_threads() == 3


def test_a_failure_and_an_early_end_leave_the_number_of_threads(checkpoint: Checkpoint, threaded: bool) -> None:
    def fail(name: str) -> str:
        if name == names[2]:
            raise ValueError(name)
        return name

    names = checkpoint.names
    results = stream_tensors(fail, names, lambda name: [(checkpoint, name)], "failing")
    assert [next(results), next(results)] == list(names[:2])
    with pytest.raises(ValueError, match=names[2]):
        next(results)
    assert torch.get_num_threads() == 3
    assert next(stream_tensors(str.upper, names, lambda name: [(checkpoint, name)], "left")) == names[0].upper()
    assert torch.get_num_threads() == 3
