"""Protection, confinement, early stops and going on over two processes, against one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from graft.specs.localizable import LocalizableSpec
from graft.tensors.checkpoint import Checkpoint
from tests.checkpoints import changed_entries, count
from tests.parallel import protected
from tests.parallel.conftest import distance

ENGINES = ("ddp", "fsdp")


@pytest.fixture(scope="module")
def alone(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Run the same trainings in one process."""
    out = tmp_path_factory.mktemp("alone")
    return out, {name: protected.train(folder, name, out / name) for name in protected.TRAININGS}


@pytest.mark.parametrize("name", ["stopped", "most", "pulled"])
def test_two_processes_train_beside_a_core_as_one_does(
    name: str, folder: Path, out: Path, alone: tuple[Path, dict[str, Any]], results: Any
) -> None:
    one, results_alone = alone
    moved = distance(folder / "base", one / name)
    for engine in ENGINES:
        assert results["trainings"][engine][name] == results_alone[name]  # the same stop
        assert distance(one / name, out / f"{name}-{engine}") < 1e-3 * moved


def test_training_stops_early(alone: tuple[Path, dict[str, Any]]) -> None:
    steps = alone[1]["stopped"]["steps"]
    assert protected.TRAININGS["stopped"][2] < steps < 4 * protected.EPOCH  # later than where it was broken off
    assert steps % protected.EPOCH


@pytest.mark.parametrize("name", protected.TRAININGS)
def test_the_core_keeps_its_bits(name: str, folder: Path, out: Path, tmp_path: Path) -> None:
    core = protected.core_of(folder / "base", protected.TRAININGS[name][0])
    protected.train(folder, name, tmp_path / "free", protect=False)
    free = changed_entries(folder / "base", tmp_path / "free")
    assert sum(int(free[tensor][torch.tensor(core[tensor])].sum()) for tensor in core) > 100  # the control
    for engine in ENGINES:
        changed = changed_entries(folder / "base", out / f"{name}-{engine}")
        assert not any(changed[tensor][torch.tensor(core[tensor])].any() for tensor in core)
        assert count(changed) > 100


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("name", "few"), [("localizable", protected.FEW), ("by gradient", protected.BY_GRADIENT)])
def test_two_processes_confine_themselves_to_few_weights(
    name: str,
    few: LocalizableSpec,
    engine: str,
    folder: Path,
    out: Path,
    alone: tuple[Path, dict[str, Any]],
    results: Any,
) -> None:
    one, two = (
        changed_entries(folder / "base", alone[0] / name),
        changed_entries(folder / "base", out / f"{name}-{engine}"),
    )
    most = int(few.density * Checkpoint.open(folder / "base").n_parameters + 0.5)
    counts = [count(which) for which in (one, two)]
    both = sum(int((one[tensor] & two[tensor]).sum()) for tensor in one)
    assert max(counts) <= most
    assert both > 0.99 * max(counts)  # they are the same but for ties and rounding
    assert results["trainings"][engine][name] == alone[1][name]


@pytest.mark.parametrize(
    ("engine", "name"), [(engine, name) for engine in ENGINES for name in protected.BROKEN[engine]]
)
def test_what_goes_on_ends_in_the_same_bits(engine: str, name: str, out: Path, results: Any) -> None:
    assert results["trainings"][engine][f"{name}-again"] == results["trainings"][engine][name]
    again = changed_entries(out / f"{name}-{engine}", out / f"{name}-{engine}-again")
    assert not count(again)


def test_master_weights_in_shards_keep_the_core_and_go_on(folder: Path, out: Path, results: Any) -> None:
    assert results["mixed"]["again"] == results["mixed"]["whole"]
    assert not count(changed_entries(out / "narrow", out / "narrow-again"))
    core, base = protected.core_of(folder / "base", 0.3), Checkpoint.open(folder / "narrow")
    changed = changed_entries(folder / "narrow", out / "narrow")
    assert not any(changed[tensor][torch.tensor(core[tensor])].any() for tensor in core)
    assert 100 < count(changed) <= int(protected.BY_GRADIENT.density * base.n_parameters + 0.5)
