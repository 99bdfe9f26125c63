"""The rules against plain arithmetic, coordinate by coordinate."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import OverlapError
from graft.patch.index_join import count_overlaps, join_indices
from graft.patch.overlap_rules import OverlapRule, join_entries
from graft.patch.spherical import arc_weights, mean_on_sphere

N = 9
BASE = torch.linspace(-2, 2, N)
NUMBERS = st.sampled_from([-3.0, -1.0, -0.0, 0.0, 0.5, 1.0, 6.0])
SETS = st.lists(st.dictionaries(st.integers(0, N - 1), NUMBERS, min_size=1), min_size=1, max_size=5)


def joined(sets: list[dict[int, float]], rule: OverlapRule, base: torch.Tensor = BASE) -> dict[int, float]:
    parts = [
        (np.array(sorted(item), np.int64), torch.tensor([item[i] for i in sorted(item)], dtype=base.dtype))
        for item in sets
    ]
    meeting = join_entries(parts, rule, "w", lambda indices: base[indices])
    assert meeting.join.shared == sum(sum(i in item for item in sets) > 1 for i in range(N))
    return dict(zip(meeting.indices.tolist(), meeting.values.tolist(), strict=True))


def expected(values: list[float], base: float, rule: str) -> float:
    if len({repr(value) for value in values}) == 1:
        return values[0]
    if rule == "mean":
        return math.fsum(values) / len(values)
    side = math.fsum(value - base for value in values)
    chosen = [value for value in values if (value - base) * side > 0]
    return math.fsum(chosen) / len(chosen) if chosen else base


@settings(derandomize=True, deadline=None)
@given(SETS, st.sampled_from(["mean", "sign"]))
def test_mean_and_sign_are_plain_arithmetic(sets: list[dict[int, float]], rule: OverlapRule) -> None:
    blended = joined(sets, rule)
    for i, value in blended.items():
        wanted = expected([item[i] for item in sets if i in item], BASE[i].item(), rule)
        assert value == torch.tensor(wanted, dtype=torch.float64).float().item()
    assert set(blended) == set().union(*sets)


@settings(derandomize=True, deadline=None)
@given(SETS, st.sampled_from(["mean", "sign"]), st.randoms(use_true_random=False))
def test_mean_and_sign_know_no_order(sets: list[dict[int, float]], rule: OverlapRule, draw: object) -> None:
    shuffled = list(sets)
    draw.shuffle(shuffled)  # type: ignore[attr-defined]
    assert repr(joined(shuffled, rule)) == repr(joined(sets, rule))


def test_sign_takes_the_side_with_the_greater_mass_not_the_majority() -> None:
    sets = [{0: -1.0}, {0: -1.0}, {0: 6.0}]  # base -2: all above; then around a base of 0
    assert joined(sets, "sign") == {0: torch.tensor(4 / 3).item()}
    assert joined(sets, "sign", torch.zeros(N)) == {0: 6.0}
    assert joined([{3: 1.0}, {3: -1.0}], "sign", torch.zeros(N)) == {3: 0.0}  # nobody wins: the base


def test_slerp_is_taken_over_what_the_same_patches_share() -> None:
    zero = torch.zeros(N)
    a, b = {0: 3.0, 1: 0.0, 5: 1.0}, {0: 0.0, 1: 3.0, 6: 1.0}
    blended = joined([a, b], "slerp", zero)
    half = math.sin(math.pi / 4) / math.sin(math.pi / 2)  # at a right angle, t = 1/2
    assert blended == pytest.approx({0: 3 * half, 1: 3 * half, 5: 1.0, 6: 1.0})
    assert math.hypot(blended[0], blended[1]) == pytest.approx(3)  # the length stays, the mean's would be 2.12
    other = joined([a, b, {1: 3.0, 7: 1.0}], "slerp", zero)  # coordinate 1 is now shared by three, 0 by two
    assert (other[0], other[1]) != (blended[0], blended[1])
    assert joined([a, b], "slerp", zero + 1) != blended  # it is an angle of differences


def test_slerp_of_parallel_and_of_opposite_differences_is_the_line() -> None:
    zero = torch.zeros(N)
    assert joined([{0: 1.0, 1: 2.0}, {0: 2.0, 1: 4.0}], "slerp", zero) == {0: 1.5, 1: 3.0}
    assert joined([{0: 1.0, 1: 2.0}, {0: -1.0, 1: -2.0}], "slerp", zero) == {0: 0.0, 1: 0.0}
    assert joined([{0: 1.0}, {0: 0.0}], "slerp", zero) == {0: 0.5}  # no angle with nothing


@settings(derandomize=True, deadline=None)
@given(st.floats(0, 1), st.floats(-1, 1))
def test_arc_weights_lead_from_one_end_to_the_other(t: float, cosine: float) -> None:
    left, right = arc_weights(cosine, t)
    assert arc_weights(cosine, 0.0) == pytest.approx((1, 0))
    assert (right, left) == pytest.approx(arc_weights(cosine, 1 - t))
    if abs(cosine) < 0.99:  # unit vectors stay unit vectors
        assert left**2 + right**2 + 2 * left * right * cosine == pytest.approx(1)


def test_the_spherical_mean_of_equal_vectors_is_that_vector() -> None:
    vector = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    assert torch.allclose(mean_on_sphere(vector.repeat(4, 1)), vector)


@pytest.mark.parametrize("rule", ["mean", "sign", "slerp"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn])
def test_every_float_dtype_is_rounded_to_itself(rule: OverlapRule, dtype: torch.dtype) -> None:
    indices = np.arange(2)
    parts = [(indices, torch.tensor(values).to(dtype)) for values in ([1.0, 3.0], [2.0, 3.0])]
    entries = join_entries(parts, rule, "w", lambda indices: torch.zeros(len(indices)).to(dtype))
    assert entries.values.dtype == dtype
    assert entries.values.float().tolist() == [1.5, 3.0]
    assert entries.differing == 1


@pytest.mark.parametrize("rule", ["mean", "sign", "slerp"])
def test_what_cannot_be_blended_is_refused_and_what_agrees_is_kept(rule: OverlapRule) -> None:
    parts = [(np.array([4]), torch.tensor([value])) for value in (3, 3, 5)]
    assert join_entries(parts[:2], rule, "steps").values.tolist() == [3]
    with pytest.raises(OverlapError, match=r"'steps': torch.int64 values cannot be averaged"):
        join_entries(parts, rule, "steps", lambda indices: indices)


def test_without_the_base_sign_and_slerp_are_refused() -> None:
    parts = [(np.array([4]), torch.tensor([value])) for value in (3.0, 5.0)]
    assert join_entries(parts, "mean", "w").values.tolist() == [4.0]
    for rule in ("sign", "slerp"):
        with pytest.raises(OverlapError, match=r"'w': the rule .* needs the base's values"):
            join_entries(parts, rule, "w")  # type: ignore[arg-type]


def test_an_arc_that_leaves_the_dtype_is_refused() -> None:
    # a wide angle chunks the mean of two long vectors beyond the largest fp16, 65,504
    parts = [(np.array([0, 1]), torch.tensor(values).half()) for values in ([6e4, 6e4], [5.9e4, -6e4])]
    assert join_entries(parts, "mean", "w").values.isfinite().all()
    with pytest.raises(OverlapError, match=r"'w': a blended value is too large for torch.float16"):
        join_entries(parts, "slerp", "w", lambda indices: torch.zeros(len(indices)))


@settings(derandomize=True, deadline=None)
@given(SETS)
def test_meetings_are_counted_as_by_hand(sets: list[dict[int, float]]) -> None:
    join = join_indices([np.array(sorted(item), np.int64) for item in sets])
    counts = count_overlaps(join, len(sets))
    assert counts.tolist() == [[len(a.keys() & b.keys()) for b in sets] for a in sets]
    assert join.union.tolist() == sorted(set().union(*sets))
