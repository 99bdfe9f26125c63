"""The search for the largest movements against a sort of all of them, by samples that are right and by wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import CheckpointError
from graft.localize import top_deltas
from graft.localize.top_deltas import LAST, Bracket, TopDeltas, find_top_delta_mask
from graft.tensors import streaming
from graft.tensors.dtypes import as_bits
from graft.tensors.pair import CheckpointPair
from tests.checkpoints import Tensors, write_single

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
# many ties, zeros of both signs, subnormals, and neighbors that half precision rounds together
MOVES = st.sampled_from([0.0, -0.0, 1e-7, -1e-7, 0.25, -0.25, 0.2500001, 0.251, 1.0, -1.0, 3.0, 60000.0])
PASSES = {  # what a search of few weights takes only once they are many
    "all are sampled": {},
    "few are sampled": {"SAMPLE": 8, "RUN": 2},
    "looks again": {"CACHED": 0},
    "looks again where ties are many": {"CACHED": 16},
    "in bins": {"EXACT": 0, "BIN_BITS": 4},
    "all of these": {"SAMPLE": 4, "RUN": 2, "CACHED": 0, "EXACT": 0, "BIN_BITS": 7},
}
Entries = list[tuple[str, int]]


def pair_of(base: Tensors, tuned: Tensors, folder: Path) -> CheckpointPair:
    return CheckpointPair.open(write_single(folder / "base", base), write_single(folder / "tuned", tuned))


def sort_all(pair: CheckpointPair, k: int) -> Entries:
    """The definition: a stable sort of every fp32 |delta| that is not 0, tensors by name, entries by index."""
    sizes = {name: pair.read_delta(name)[0].abs().tolist() for name in pair.names}
    places = [(name, i) for name in sorted(sizes) for i in range(len(sizes[name])) if sizes[name][i]]
    return sorted(sorted(places, key=lambda place: -sizes[place[0]][place[1]])[:k])


def search(pair: CheckpointPair, k: int) -> Entries:
    """The selected entries, fewer than k where fewer moved."""
    mask = find_top_delta_mask(pair, list(pair.names), k)
    return [(name, int(i)) for name in mask for i in mask[name]]


@pytest.mark.parametrize("passes", PASSES.values(), ids=PASSES)
@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    st.dictionaries(st.sampled_from("abc"), st.lists(MOVES, min_size=1, max_size=40), min_size=1),
    st.sampled_from(DTYPES),
    st.sampled_from([(1, 3), (3, 7), (64, 64)]),
    st.integers(1, 130),
)
def test_the_same_entries_as_a_full_stable_sort(
    tmp_path_factory: pytest.TempPathFactory,
    passes: dict[str, int],
    moves: dict[str, list[float]],
    dtype: torch.dtype,
    chunks: tuple[int, int],
    k: int,
) -> None:
    base = {name: torch.linspace(-1, 2, len(moved)).to(dtype) for name, moved in moves.items()}
    tuned = {name: (base[name].double() + torch.tensor(moved).double()).to(dtype) for name, moved in moves.items()}
    pair = pair_of(base, tuned, tmp_path_factory.mktemp("pair"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("graft.tensors.pair.CHUNK", chunks[0])
        for name, value in ({"LONG": chunks[1]} | passes).items():
            patched.setattr(top_deltas, name, value)
        assert search(pair, k) == sort_all(pair, k)


@pytest.mark.parametrize(("low", "last"), [(1, 2), (LAST, LAST), (1, LAST)])
def test_a_bracket_that_is_wrong_costs_passes_and_nothing_else(tmp_path: Path, low: int, last: int) -> None:
    generator = torch.Generator().manual_seed(0)
    base = {name: torch.randn(500, generator=generator).bfloat16() for name in "ab"}
    tuned = {name: w + 0.1 * torch.randn(500, generator=generator).bfloat16() for name, w in base.items()}
    pair = pair_of(base, tuned, tmp_path)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(top_deltas, "_bracket_of", lambda *_: Bracket.around(low, last, 0))
        assert search(pair, 300) == sort_all(pair, 300)


def test_a_large_model_takes_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    base = {f"t{i}": torch.randn(40_000, generator=generator) for i in range(6)}
    tuned = {
        name: w + 1e-3 * (i + 1) * torch.randn(40_000, generator=generator) for i, (name, w) in enumerate(base.items())
    }
    pair = pair_of(base, tuned, tmp_path)
    monkeypatch.setattr(top_deltas, "SAMPLE", 1 << 14)
    monkeypatch.setattr(top_deltas, "RUN", 16)
    for share in (0.01, 0.2):
        movements = TopDeltas(pair, sorted(base), round(share * 240_000))
        movements.settle({name: movements.count(name) for name in sorted(base)})
        assert movements.is_settled
        tallies = {name: movements.count(name) for name in base}
        assert 0 < sum(int(tally.counts.sum()) for tally in tallies.values()) < 0.06 * 240_000


@pytest.mark.parametrize("where", ["base", "tuned"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused_by_name(tmp_path: Path, where: str, value: float) -> None:
    both = {"base": {"w": torch.ones(9)}, "tuned": {"w": torch.full((9,), 2.0)}}
    assert len(search(pair_of(both["base"], both["tuned"], tmp_path / "sound"), 3)) == 3
    both[where]["w"][4] = value
    with pytest.raises(CheckpointError, match=f"{where}: tensor 'w' holds NaN or infinite"):
        search(pair_of(both["base"], both["tuned"], tmp_path), 3)


def test_half_precision_ties_are_decided_by_the_exact_difference(tmp_path: Path) -> None:
    base = {"w": torch.tensor([1.0, 0.0, 2**-7]).bfloat16()}
    tuned = {"w": torch.tensor([1 + 2**-7, 256.0, 256.0]).bfloat16()}
    assert float(tuned["w"][2] - base["w"][2]) == 256.0  # rounded, the third ties with the second, which moved further
    assert search(pair_of(base, tuned, tmp_path), 1) == [("w", 1)]


@pytest.mark.parametrize("kept", [1 << 24, 0])
@pytest.mark.parametrize("n_threads", [1, 4])
def test_any_number_of_threads_finds_the_same(
    tmp_path: Path, n_threads: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(top_deltas, "CACHED", kept)
    monkeypatch.setattr(streaming, "SMALL", 0)
    generator = torch.Generator().manual_seed(0)
    base = {f"t{i}": torch.randn(5_000 + i, generator=generator).bfloat16() for i in range(12)}
    tuned = {
        name: (w.float() + 1e-2 * torch.randn(w.shape, generator=generator)).bfloat16() for name, w in base.items()
    }
    pair, before = pair_of(base, tuned, tmp_path), torch.get_num_threads()
    try:
        torch.set_num_threads(n_threads)
        found = search(pair, 6_000)
        assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(before)
    assert found == sort_all(pair, 6_000)


def test_an_overflowing_difference_of_finite_values_is_the_largest(tmp_path: Path) -> None:
    big = float(torch.finfo(torch.float16).max)
    base, tuned = {"w": torch.tensor([1.0, -big, 5.0]).half()}, {"w": torch.tensor([2.0, big, 1.0]).half()}
    assert search(pair_of(base, tuned, tmp_path), 1) == [("w", 1)]


def test_a_tuned_checkpoint_in_another_dtype_is_rounded_first(tmp_path: Path) -> None:
    base = {"w": torch.tensor([1.0, 1.0, 1.0]).bfloat16()}
    tuned = {"w": torch.tensor([1.001, 1.01, 0.9])}  # the first rounds back to 1
    pair = pair_of(base, tuned, tmp_path)
    assert search(pair, 3) == [("w", 1), ("w", 2)]
    assert as_bits(pair.read("w")[1])[0] == as_bits(base["w"])[0]
