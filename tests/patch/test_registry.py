"""A rule for overlaps is a function and a row: what a new one shows up in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from graft_cli.entry import main
from safetensors.torch import load_file

from graft.compose.composition import compose_patches
from graft.errors import ConfigError, OverlapError
from graft.patch.format.writing import save_patch
from graft.patch.overlap_rules import join_entries
from graft.patch.registry import OVERLAP_RULES, OverlapEntry
from tests.checkpoints import make_patch, write_single

TOY = OverlapEntry(
    name="farthest", help="the value farthest from the base", target=f"{__name__}:take_farthest", needs_base=True
)


def take_farthest(values: torch.Tensor, base: torch.Tensor, owners: object) -> torch.Tensor:
    return values.gather(1, (values - base[:, None]).abs().argmax(dim=1, keepdim=True)).squeeze(1)


@pytest.fixture
def toy() -> Iterator[None]:
    with OVERLAP_RULES.extended(TOY):
        yield


def run(*arguments: object) -> object:
    with pytest.raises(SystemExit) as left:
        main([*map(str, arguments)])
    return left.value.code


@pytest.mark.usefixtures("toy")
def test_a_new_rule_is_a_choice_with_help_and_is_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("apply", "compose"):
        assert run(command, "--help") == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert "slerp|farthest]" in shown
        assert "farthest: the value farthest from the base" in shown
    weights = {"layers.0.w": torch.full((4,), 1.0)}
    base = write_single(tmp_path / "base", weights)
    for name, value in (("a", 1.5), ("b", -1.0)):
        save_patch(make_patch(weights, {"layers.0.w": {0: value, 1: value if name == "a" else 0.9}}), tmp_path / name)
    out = tmp_path / "out"
    assert run("apply", base, tmp_path / "a", tmp_path / "b", "-o", out, "--on-overlap", "farthest") == 0
    assert load_file(out / "model.safetensors")["layers.0.w"].tolist() == [-1.0, 1.5, 1.0, 1.0]


def test_what_is_no_rule_is_refused_with_all_that_are(toy: None, capsys: pytest.CaptureFixture[str]) -> None:
    patch = make_patch({"w": torch.ones(4)}, {"w": {0: 2.0}})
    with pytest.raises(ConfigError, match=r"choose from error, first, .*, farthest"):
        compose_patches(patch, patch, on_overlap="nearest")
    assert run("compose", "a", "b", "-o", "c", "--on-overlap", "nearest") == 2
    assert "'farthest'" in capsys.readouterr().err
    parts = [(np.array([0]), torch.tensor([value])) for value in (1.0, 2.0)]
    with pytest.raises(OverlapError, match="first or last, or mean, sign, slerp or farthest, or exclude"):
        join_entries(parts, "error", "w")


def test_every_row_can_be_loaded() -> None:
    assert all(callable(entry.load()) for entry in OVERLAP_RULES.values())
