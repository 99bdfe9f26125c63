"""Runs of rows, and what counts as the rows of a batch."""

from __future__ import annotations

import pytest
import torch

from graft.errors import ConfigError
from graft.mixture.rows import RowSkills, Run, count_rows


def test_runs_join_neighbors_and_leave_out_the_base() -> None:
    rows = RowSkills((("a",), ("a",), (), ("b",), ("a", "b")))
    assert rows.runs(5) == (Run(0, 2, ("a",)), Run(3, 4, ("b",)), Run(4, 5, ("a", "b")))
    assert rows.runs(10) == (Run(0, 4, ("a",)), Run(6, 8, ("b",)), Run(8, 10, ("a", "b")))  # two beams each
    assert RowSkills(((), ())).runs(2) == ()


@pytest.mark.parametrize("n_rows", [1, 4, 7])
def test_another_number_of_rows_is_refused(n_rows: int) -> None:
    with pytest.raises(ConfigError, match=f"the batch has {n_rows} rows, but skills were named for 5"):
        RowSkills((("a",),) * 5).runs(n_rows)


def test_rows_of_a_call() -> None:
    ids, embeddings = torch.ones(3, 4, dtype=torch.int64), torch.ones(2, 4, 8)
    assert count_rows((ids,), {"attention_mask": embeddings}) == 3
    assert count_rows((), {"attention_mask": embeddings, "input_ids": ids}) == 3
    assert count_rows((), {"use_cache": True, "inputs_embeds": embeddings}) == 2
    assert count_rows((), {"use_cache": True, "anything": embeddings}) == 2
    with pytest.raises(ConfigError, match="without a tensor that has rows"):
        count_rows((), {"use_cache": True})
