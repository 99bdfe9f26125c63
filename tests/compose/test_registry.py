"""A method of fusion is a function and a row: what a new one shows up in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from graft_cli.entry import main
from safetensors.torch import load_file

from graft.compose.fusion.stretch import Stretch
from graft.compose.registry import FUSION_METHODS, FusionEntry
from graft.specs.fusion import FusionSpec
from tests.checkpoints import write_single

TOY = FusionEntry(
    name="largest",
    help="the largest of the values",
    target=f"{__name__}:take_largest",
    needs_base=True,
    share="density",
)


def take_largest(stretch: Stretch) -> torch.Tensor:
    assert [len(kept) for kept in stretch.selections] == [4, 4]
    return torch.stack([values.float() for values in stretch.tuned]).amax(dim=0)


@pytest.fixture
def toy() -> Iterator[None]:
    with FUSION_METHODS.extended(TOY):
        yield


def run(*arguments: object) -> object:
    with pytest.raises(SystemExit) as left:
        main(["fuse", *map(str, arguments)])
    return left.value.code


@pytest.mark.usefixtures("toy")
def test_a_new_method_is_a_choice_with_help_and_fuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "cpi|largest]" in shown
    assert "largest: the largest of the values" in shown
    base = torch.zeros(4)
    models = [base, base + torch.tensor([1.0, 2, 3, 4]), base + torch.tensor([4.0, 3, 2, 1])]
    folders = [write_single(tmp_path / str(i), {"layers.0.w": values}) for i, values in enumerate(models)]
    out = tmp_path / "out"
    assert run(*folders, "-o", out, "--method", "largest", "--density", 1, "--json") == 0
    assert json.loads(capsys.readouterr().out)["selected"] == [4, 4]
    assert load_file(out / "model.safetensors")["layers.0.w"].tolist() == [4, 3, 3, 4]


def test_what_is_no_method_is_refused_with_all_that_are(toy: None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"method must be one of mean, .*, cpi, largest, not 'sum'"):
        FusionSpec(method="sum")
    assert run("base", "a", "b", "-o", "out", "--method", "sum") == 2
    assert "'largest'" in capsys.readouterr().err


def test_every_row_can_be_loaded_and_its_setting_is_one() -> None:
    for entry in FUSION_METHODS.values():
        assert callable(entry.load())
        assert entry.share is None or hasattr(FusionSpec(), entry.share)
