"""`graft explain` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graft.localize.diff import diff_checkpoints
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from graft.report.plots.style import is_plot
from tests.cli.conftest import Cli as Cli
from tests.cli.conftest import cli as cli
from tests.models import write_bert


@pytest.fixture(scope="module")
def skill(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("explain") / "skill.safetensors"
    save_patch(diff_checkpoints(shelf / "base", shelf / "tuned", scope="layers", budget=300), file)
    return file


def test_words_numbers_and_picture(skill: Path, base: Path, task_file: Path, tmp_path: Path, cli: Cli) -> None:
    picture = tmp_path / "map.png"
    told = cli("explain", skill, "--base", base, "--task", task_file, "--limit", 20, "--plot", picture)
    assert told.code == 0, told.err
    assert "lie in" in told.out
    assert "On 20 validation texts of" in told.out
    assert "From base to graft, KL is" in told.out
    assert told.out.endswith(f"wrote {picture}\n")
    assert is_plot(picture)
    again = cli("explain", skill, "--base", base, "--plot", picture)
    assert (again.code, "exists already" in again.err) == (1, True)
    assert cli("explain", skill, "--base", base, "--plot", picture, "--force").code == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["map.png"]


def test_json_is_one_object_and_alike_in_any_batch(skill: Path, base: Path, task_file: Path, cli: Cli) -> None:
    first, other = (
        json.loads(cli("explain", skill, "--base", base, "--task", task_file, "--batch-size", n, "--json").out)
        for n in (3, 48)
    )
    for found in (first, other):
        assert found["k"] == len(load_patch(skill)) == sum(tensor["k"] for tensor in found["tensors"].values())
        assert found["texts"]["n"] == 48
        assert len(found["texts"]["most"]) == 10
    assert first["texts"]["mean_kl"] == pytest.approx(other["texts"]["mean_kl"], rel=1e-4)
    rms = [[row["rms"] for row in found["activations"]["dimensions"]] for found in (first, other)]
    assert rms[0] == pytest.approx(rms[1], rel=1e-5)
    assert {**first, "texts": 0, "activations": 0} == {**other, "texts": 0, "activations": 0}


def test_a_mask_file_is_explained_too(skill: Path, base: Path, tmp_path: Path, cli: Cli) -> None:
    save_patch(load_patch(skill).mask, tmp_path / "mask.safetensors")
    told = cli("explain", tmp_path / "mask.safetensors", "--base", base)
    assert (told.code, told.out) == (0, cli("explain", skill, "--base", base).out)


def test_a_mask_of_another_base_is_noted(skill: Path, base: Path, tmp_path: Path, cli: Cli) -> None:
    patch = load_patch(skill)
    save_patch(patch.mask, tmp_path / "mask.safetensors", provenance=patch.provenance)
    own = cli("explain", tmp_path / "mask.safetensors", "--base", base)
    assert (own.code, "another base" in own.err) == (0, False)
    other = cli("explain", tmp_path / "mask.safetensors", "--base", write_bert(tmp_path / "other", seed=9))
    assert (other.code, other.out) == (0, own.out)
    assert "note: the mask was made for another base than other: the base's digest is " in other.err


def test_what_would_do_nothing_is_refused(skill: Path, base: Path, tmp_path: Path, cli: Cli) -> None:
    for words, why in (
        (["--limit", 3], "--limit needs --task"),
        (["--batch-size", 3], "--batch-size needs --task"),
        (["--force"], "--force needs --plot"),
        (["--plot", tmp_path / "map.svg"], "ends in .png"),
    ):
        refused = cli("explain", skill, "--base", base, *words)
        assert (refused.code, refused.out) == (2, "")
        assert why in refused.err
