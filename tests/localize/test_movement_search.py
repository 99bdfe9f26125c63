from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import CheckpointError
from graft.localize.movement_search import MovementSearch
from graft.patch.mask import Mask
from graft.tensors.dtypes import as_bits
from graft.tensors.pair import CheckpointPair
from tests.checkpoints import Tensors, write_single

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
# sizes of movement: many ties, zeros of both signs, subnormals, and neighbours that half precision rounds together
MOVES = st.sampled_from([0.0, -0.0, 1e-7, -1e-7, 0.25, -0.25, 0.2500001, 0.251, 1.0, -1.0, 3.0, 60000.0])
Moves = dict[str, list[float]]


def pair_of(base: Tensors, tuned: Tensors, folder: Path) -> CheckpointPair:
    return CheckpointPair.open(write_single(folder / "base", base), write_single(folder / "tuned", tuned))


def sort_all(pair: CheckpointPair, k: int) -> list[tuple[str, int]]:
    """The definition: a stable sort of every fp32 |delta|, tensors by name, entries by index."""
    sizes = {name: pair.read_delta(name)[0].abs().tolist() for name in pair.names}
    places = [(name, i) for name in sorted(sizes) for i in range(len(sizes[name]))]
    return sorted(sorted(places, key=lambda place: -sizes[place[0]][place[1]])[:k])


def entries(mask: Mask | None) -> list[tuple[str, int]]:
    assert mask is not None
    return [(name, int(i)) for name in mask for i in mask[name]]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abc"), st.lists(MOVES, min_size=1, max_size=40), min_size=1),
    st.sampled_from(DTYPES),
    st.sampled_from([1, 3, 7, 64]),
    st.data(),
)
def test_the_same_entries_as_a_full_stable_sort(
    tmp_path_factory: pytest.TempPathFactory, moves: Moves, dtype: torch.dtype, part: int, data: st.DataObject
) -> None:
    base = {name: torch.linspace(-1, 2, len(moved)).to(dtype) for name, moved in moves.items()}
    tuned = {name: (base[name].double() + torch.tensor(moved).double()).to(dtype) for name, moved in moves.items()}
    pair = pair_of(base, tuned, tmp_path_factory.mktemp("pair"))
    moved = sum(int((pair.read_delta(name)[0] != 0).sum()) for name in pair.names)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("graft.tensors.pair.STRETCH", part)
        if moved:
            k = data.draw(st.integers(1, moved))
            assert entries(MovementSearch(pair, tuple(pair.names), k).run()) == sort_all(pair, k)
        assert MovementSearch(pair, tuple(pair.names), moved + 1).run() is None


def test_half_precision_ties_are_decided_by_the_exact_difference(tmp_path: Path) -> None:
    base = {"w": torch.tensor([1.0, 256.0, 1.0]).bfloat16()}
    tuned = {"w": torch.tensor([1 + 2**-7, 258.0, 257.0]).bfloat16()}
    tuned["w"][2] = 256.0
    base["w"][2] = 2**-7  # 256 - 2^-7 rounds to 256 in bf16: a size that a smaller one ties with after rounding
    base["w"][1], tuned["w"][1] = 0.0, 256.0
    pair = pair_of(base, tuned, tmp_path)
    assert float(tuned["w"][2] - base["w"][2]) == 256.0
    assert entries(MovementSearch(pair, ["w"], 1).run()) == [("w", 1)]


@pytest.mark.parametrize("n_threads", [1, 4])
def test_any_number_of_threads_finds_the_same(tmp_path: Path, n_threads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    base = {f"t{i}": torch.randn(5_000 + i, generator=generator).bfloat16() for i in range(12)}
    tuned = {
        name: (w.float() + 1e-2 * torch.randn(w.shape, generator=generator)).bfloat16() for name, w in base.items()
    }
    pair, before = pair_of(base, tuned, tmp_path), torch.get_num_threads()
    try:
        torch.set_num_threads(n_threads)
        found = entries(MovementSearch(pair, tuple(pair.names), 6_000).run())
        assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)
    assert found == sort_all(pair, 6_000)


def test_an_overflowing_difference_of_finite_values_is_the_largest(tmp_path: Path) -> None:
    big = float(torch.finfo(torch.float16).max)
    base, tuned = {"w": torch.tensor([1.0, -big, 5.0]).half()}, {"w": torch.tensor([2.0, big, 1.0]).half()}
    assert entries(MovementSearch(pair_of(base, tuned, tmp_path), ["w"], 1).run()) == [("w", 1)]


@pytest.mark.parametrize("where", ["base", "tuned"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused_by_name(tmp_path: Path, where: str, value: float) -> None:
    both = {"base": {"w": torch.ones(9)}, "tuned": {"w": torch.full((9,), 2.0)}}
    assert MovementSearch(pair_of(both["base"], both["tuned"], tmp_path / "sound"), ["w"], 3).run() is not None
    both[where]["w"][4] = value
    pair = pair_of(both["base"], both["tuned"], tmp_path)
    with pytest.raises(CheckpointError, match=f"{where}: tensor 'w' holds NaN or infinite"):
        MovementSearch(pair, ["w"], 3).run()


def test_a_tuned_checkpoint_in_another_dtype_is_rounded_first(tmp_path: Path) -> None:
    base = {"w": torch.tensor([1.0, 1.0, 1.0]).bfloat16()}
    tuned = {"w": torch.tensor([1.001, 1.01, 0.9])}  # the first rounds back to 1
    pair = pair_of(base, tuned, tmp_path)
    assert entries(MovementSearch(pair, ["w"], 2).run()) == [("w", 1), ("w", 2)]
    assert as_bits(pair.read("w")[1])[0] == as_bits(base["w"])[0]
    assert MovementSearch(pair, ["w"], 3).run() is None
