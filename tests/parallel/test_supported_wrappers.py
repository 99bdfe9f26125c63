from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from graft.errors import ConfigError
from graft.parallel import launch
from graft.parallel.launch import find_ranks
from graft.parallel.ranks import Ranks
from graft.parallel.supported_wrappers import refuse_copied

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def mark(name: str, value: Any) -> Callable[[torch.nn.Module], torch.nn.Module]:
    def change(model: torch.nn.Module) -> torch.nn.Module:
        setattr(model.weight, name, value)
        return model

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (mark("ds_id", 3), r"'weight' is partitioned by DeepSpeed ZeRO-3: use FSDP2 .*fully_shard"),
        (mark("_is_flat_param", True), r"'weight' is flattened by FSDP1: use FSDP2"),
        (torch.nn.DataParallel, r"DataParallel copies the model at each step: launch with torchrun"),
    ],
)
def test_weights_without_a_place_are_refused(change: Any, words: str) -> None:
    refuse_copied(torch.nn.Linear(2, 2))
    with pytest.raises(ConfigError, match=words):
        refuse_copied(change(torch.nn.Linear(2, 2)))


@pytest.mark.parametrize("engine", ["DEEPSPEED", "FSDP"])
def test_a_launcher_with_an_engine_of_its_own_is_refused(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(NAMES, ("0", "2", "0", "localhost", "1"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(f"ACCELERATE_USE_{engine}", "true")
    with pytest.raises(ConfigError, match=r"launch without it and use --parallel fsdp"):
        find_ranks()


@pytest.mark.parametrize("lacking", NAMES)
def test_a_part_of_the_variables_is_no_launcher(lacking: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, "2")
    assert launch.is_launched()
    monkeypatch.delenv(lacking)
    assert not launch.is_launched()
    assert find_ranks() == Ranks()


def test_alone_nobody_is_talked_to() -> None:
    alone, tensor = Ranks(), torch.ones(2)
    assert alone.shard("ab") == [("a", True), ("b", True)]
    assert alone.gather(tensor)[0] is tensor
    assert alone.collect([1.0, 2.0], 2) == [1.0, 2.0]
    assert Ranks(2, 3).shard("abcd") == [("c", True), ("d", False)]
