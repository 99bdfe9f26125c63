from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import CheckpointError
from graft.tensors.deltas import large_deltas
from graft.tensors.pair import CheckpointPair
from tests.checkpoints import write_single

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
VALUES = st.sampled_from([0.0, -0.0, 1.0, 1.0078125, -1.0, 0.0078125, 256.0, 258.0, -6e4, 6e4, 1e-7])
SIZES = st.sampled_from([0.0, 1e-7, 0.0078125, 0.01, 1.0, 2.0078125, 255.99, 256.0, 257.0, 1e5, float("inf")])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> CheckpointPair:
    folder = tmp_path_factory.mktemp("pair")
    sound = {"w": torch.ones(3)}
    return CheckpointPair.open(write_single(folder / "base", sound), write_single(folder / "tuned", sound))


@settings(derandomize=True, deadline=None)
@given(
    st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=30),
    st.sampled_from(DTYPES),
    SIZES,
    SIZES,
    st.integers(1, 9),
)
def test_nothing_large_is_missed_and_sizes_are_exact_up_to_the_bound(
    pair: CheckpointPair,
    values: list[tuple[float, float]],
    dtype: torch.dtype,
    floor: float,
    exact_to: float,
    part: int,
) -> None:
    base, tuned = torch.tensor(values, dtype=torch.float64).to(dtype).T.contiguous()
    sizes = (tuned.float() - base.float()).abs()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("graft.tensors.pair.CHUNK", part)
        candidates, candidate_sizes = large_deltas(pair, "w", base, tuned, floor, exact_to)
    assert set(((sizes >= floor) & (sizes > 0)).nonzero().flatten().tolist()) <= set(candidates.tolist())
    assert candidates.tolist() == sorted(set(candidates.tolist()))
    assert torch.equal(candidate_sizes > exact_to, sizes[candidates] > exact_to)
    assert torch.equal(candidate_sizes[candidate_sizes <= exact_to], sizes[candidates][candidate_sizes <= exact_to])
    assert (candidate_sizes >= 0.99 * floor).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_is_refused(pair: CheckpointPair, value: float, dtype: torch.dtype) -> None:
    base, tuned = torch.ones(5).to(dtype), torch.tensor([1, 1, 2, 1, 1]).to(dtype)
    assert large_deltas(pair, "w", base, tuned, 0.5)[0].tolist() == [2]
    tuned[1] = value
    with pytest.raises(CheckpointError, match="tuned: tensor 'w' holds NaN or infinite"):
        large_deltas(pair, "w", base, tuned, 0.5)
