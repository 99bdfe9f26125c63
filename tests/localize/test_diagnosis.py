from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import CheckpointError, ConfigError
from graft.localize import diagnosis as diagnosis_module
from graft.localize.diagnosis import (
    LOCAL,
    SPREAD,
    Concentration,
    Diagnosis,
    TopShare,
    diagnose_movement,
    measure_concentration,
)
from graft.tensors.pair import CheckpointPair
from tests.checkpoints import write_single
from tests.models import copy_with

N = 40_000  # of which a density of 1e-4 keeps 4


def pair_of(folder: Path, delta: torch.Tensor, embedding: float = 0.0) -> tuple[Path, Path]:
    """A base of zeros in two layers and an embedding, and the same moved by delta in the layers."""
    before = {f"layers.{i}.w": torch.zeros(N // 4) for i in range(2)} | {"embed.weight": torch.zeros(N // 2)}
    halves = delta.split(N // 4)
    after = {f"layers.{i}.w": halves[i].clone() for i in range(2)} | {"embed.weight": torch.full((N // 2,), embedding)}
    return write_single(folder / "base", before), write_single(folder / "tuned", after)


def noise(scale: float) -> torch.Tensor:
    return scale * torch.randn(N // 2, generator=torch.Generator().manual_seed(0))


def test_a_movement_of_few_weights_is_told_from_one_of_all(tmp_path: Path) -> None:
    spikes = noise(1e-3)
    spikes[[3, 50, 15_000, 19_999]] = torch.tensor([1.0, -1.0, 1.0, -1.0])
    local = diagnose_movement(*pair_of(tmp_path / "local", spikes))
    assert local.verdict == "local"
    assert local.top[0] == TopShare(1e-4, 4, pytest.approx(4 / (4 + 0.02), rel=0.01), pytest.approx(4 / 20, rel=0.03))
    assert local.effective == pytest.approx(4 / (N // 2), rel=0.02)
    assert local.excess_kurtosis > 1000
    spread = diagnose_movement(*pair_of(tmp_path / "spread", noise(1.0)))
    assert spread.verdict == "spread"
    assert spread.top[0].squared < 0.01
    assert spread.effective == pytest.approx(1 / 3, rel=0.05)  # of a normal distribution
    assert spread.effective_l1 == pytest.approx(2 / torch.pi, rel=0.05)
    assert spread.excess_kurtosis == pytest.approx(0, abs=0.1)


def test_shares_are_those_of_a_sort_over_all_tensors(base: Path, tuned: Path) -> None:
    pair = CheckpointPair.open(base, tuned)
    found = diagnose_movement(base, tuned, scope="all")
    delta = torch.cat([pair.read_delta(name)[0].double() for name in pair.base.parameters])
    sizes = delta.abs().sort(descending=True).values
    assert (found.n_scope, found.n_parameters) == (len(sizes), len(sizes))
    assert found.changed == pytest.approx(float((delta != 0).double().mean()))
    for top, density in zip(found.top, (1e-4, 1e-3, 1e-2), strict=True):
        assert top.k == int(density * len(sizes) + 0.5)
        assert top.absolute == pytest.approx(float(sizes[: top.k].sum() / sizes.sum()))
        assert top.squared == pytest.approx(float(sizes[: top.k].square().sum() / sizes.square().sum()))
    centered = delta - delta.mean()
    kurtosis = float((centered**4).mean() / (centered**2).mean() ** 2) - 3
    assert kurtosis > 1  # there is something to compare
    assert found.excess_kurtosis == pytest.approx(kurtosis)


def test_the_scope_limits_what_is_looked_at_and_not_the_density(tmp_path: Path) -> None:
    delta = torch.zeros(N // 2)
    delta[:8] = 1.0
    folders = pair_of(tmp_path, delta, embedding=1.0)
    layers = diagnose_movement(*folders)
    assert (layers.n_scope, layers.changed, layers.top[0].k) == (N // 2, 8 / (N // 2), 4)
    assert layers.top[0].squared == pytest.approx(0.5)
    everything = diagnose_movement(*folders, scope="all")
    assert (everything.n_scope, everything.changed) == (N, (8 + N // 2) / N)
    assert everything.top[0].squared == pytest.approx(4 / (8 + N // 2))


def test_a_large_model_is_judged_from_evenly_spaced_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    delta = noise(1.0)
    delta[torch.rand(N // 2, generator=torch.Generator().manual_seed(1)) < 0.02] *= (
        20  # a fiftieth of the weights hold nearly all of the squared movement
    )
    folders = pair_of(tmp_path, delta)
    exact = diagnose_movement(*folders)
    monkeypatch.setattr(diagnosis_module, "SAMPLE", N // 10)
    found = diagnose_movement(*folders)
    assert (exact.n_seen, found.n_seen, found.n_scope) == (N // 2, N // 10, N // 2)
    assert f"moved (scope: layers; estimated from {N // 10:,} of them, evenly spaced)." in found.sentences[0]
    assert found.top[2].squared == pytest.approx(exact.top[2].squared, rel=0.15)
    assert found.top[2].k == pytest.approx(exact.top[2].k, rel=0.1)
    assert (found.verdict, found.changed) == (exact.verdict, exact.changed)


def test_what_did_not_move_is_said_so(tmp_path: Path) -> None:
    base, tuned = pair_of(tmp_path, torch.zeros(N // 2), embedding=1.0)
    found = diagnose_movement(base, tuned)
    assert found.sentences == ("No weight in the scope layers moved: there is nothing to localize.",)
    assert (found.verdict, found.changed, found.effective, found.top[0].squared) == ("still", 0.0, 0.0, 0.0)
    assert diagnose_movement(base, tuned, scope="embeddings").verdict == "spread"
    negative = write_single(tmp_path / "negative", {"layers.0.w": torch.tensor([0.0, 0.0])})
    zeros = write_single(tmp_path / "zeros", {"layers.0.w": torch.tensor([-0.0, 0.0])})
    assert diagnose_movement(negative, zeros).changed == 0.5  # a bit, but no distance


def diagnosis(*squared: float) -> Diagnosis:
    top = [TopShare(density, 2, share, 0.1) for density, share in zip((1e-4, 1e-3, 1e-2), squared, strict=True)]
    return Diagnosis("layers", 20_000, 10_000, 10_000, 0.5, 1234.5, 0.0125, 0.2, tuple(top))


REMEDY = (
    "`graft refit` fits as few values to the tuned model's answers; "
    "`graft train --localizable` trains so that few weights change."
)


@pytest.mark.parametrize(
    ("squared", "verdict", "suggested", "said"),
    [
        ((LOCAL, 0.9, 0.9), "local", 1e-4, "likely to hold more than half of the skill."),
        (
            (LOCAL - 0.01, LOCAL, 0.9),
            "between",
            1e-3,
            f"likely to hold a part of the skill. One of 0.1 % is likely to hold more than half of it; {REMEDY}",
        ),
        (
            (SPREAD, SPREAD, LOCAL),
            "between",
            1e-2,
            f"likely to hold a part of the skill. One of 1 % is likely to hold more than half of it; {REMEDY}",
        ),
        (
            (SPREAD - 0.01, SPREAD, LOCAL - 0.01),
            "spread",
            None,
            "likely to hold little of the skill. "
            f"Nor is one of 1 % to hold more than half: too many weights moved alike; {REMEDY}",
        ),
    ],
)
def test_the_verdict_follows_the_share_of_the_squared_movement(
    squared: tuple[float, ...], verdict: str, suggested: float | None, said: str
) -> None:
    found = diagnosis(*squared)
    assert (found.verdict, found.suggested) == (verdict, suggested)
    fact = f"{100 * squared[0]:.2g} % of the squared movement lies in 0.01 % of the weights"
    assert found.sentence == f"{fact}: a patch of that size is {said}"
    moved, alike, last = found.sentences
    assert moved == "50 % of the 10,000 weights moved (scope: layers)."
    assert alike == "The movement is as concentrated as if 1.2 % of them had moved alike (excess kurtosis 1.23e+03)."
    assert last == found.sentence
    plain = json.loads(json.dumps(found.to_json()))
    assert [plain[key] for key in ("verdict", "suggested", "sentence")] == [verdict, suggested, found.sentence]
    assert plain["top"][0] == {"density": 1e-4, "k": 2, "squared": squared[0], "absolute": 0.1}


def test_what_cannot_be_read_is_refused(base: Path, tuned: Path, tmp_path: Path) -> None:
    assert diagnose_movement(base, tuned).verdict != "still"
    with pytest.raises(ConfigError, match=r"scope 'nothing' holds no tensor"):
        diagnose_movement(base, tuned, scope="nothing")
    holed = copy_with(tuned, tmp_path / "nan", lambda _, w: w.view(-1)[:1].fill_(float("nan")))
    with pytest.raises(CheckpointError, match=r"nan: tensor '.*' holds NaN or infinite values"):
        diagnose_movement(base, holed)


# few values, so that ties are many: zeros of both signs, subnormals, neighbors, both signs
POOL = [0.0, -0.0, 1e-45, -1e-45, 1.0, 1.0000001, -1.0, -1.0000001, 1e18, -0.1, 3e-5]


def measure(tensors: list[list[float]] | list[torch.Tensor], ks: list[int]) -> Concentration:
    deltas = [torch.as_tensor(values, dtype=torch.float32) for values in tensors]
    return measure_concentration(torch.cat(deltas), ks)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.lists(st.one_of(st.sampled_from(POOL), st.floats(-(2.0**60), 2.0**60, width=32))), min_size=1, max_size=3
    ),
    st.lists(st.integers(1, 12), min_size=1, max_size=3),
)
def test_sums_over_the_largest_are_those_of_a_sort(tensors: list[list[float]], ks: list[int]) -> None:
    found = measure(tensors, ks)
    sizes = np.sort(np.abs(np.array([x for values in tensors for x in values], np.float32)).astype(float))[::-1]
    assert found.n == len(sizes)
    assert found.absolute == pytest.approx(sizes.sum(), rel=1e-12)
    assert found.squared == pytest.approx((sizes**2).sum(), rel=1e-12)
    for k in ks:
        assert found.largest[k] == pytest.approx((sizes[:k].sum(), (sizes[:k] ** 2).sum()), rel=1e-12)


def test_kurtosis_tells_a_normal_movement_from_a_heavy_tailed_one() -> None:
    draws = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    assert measure([draws], [1]).excess_kurtosis == pytest.approx(0, abs=0.05)
    assert measure([draws + 5], [1]).excess_kurtosis == pytest.approx(0, abs=0.05)  # central moments
    assert measure([draws.sign() * draws.abs().log().abs()], [1]).excess_kurtosis > 1
    assert measure([draws[:0], torch.ones(9)], [1]).excess_kurtosis == 0  # no spread at all


def test_effective_numbers_count_what_moved_alike() -> None:
    alike = torch.zeros(1000)
    alike[:7] = torch.tensor([1.0, -1.0]).repeat(4)[:7]
    found = measure([alike], [7])
    assert found.participation == pytest.approx(7)
    assert found.participation_l1 == pytest.approx(7)
    alike[7:] = 1e-3  # dust: the lower the powers, the more it counts
    dusty = measure([alike], [7])
    assert 7 < dusty.participation < 9 < dusty.participation_l1 < 10
    still = measure([torch.zeros(5)], [1])
    assert (still.participation, still.participation_l1, still.largest[1]) == (0.0, 0.0, (0.0, 0.0))
