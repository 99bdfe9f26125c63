"""compose, exclude and overlap on the command line, on skills cut from a trained tiny model."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from graft.compose.exclusion import exclude_patches
from graft.localize.diff import diff_checkpoints
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import same_bits
from tests.checkpoints import files_below, make_patch
from tests.cli.conftest import Cli as Cli
from tests.cli.conftest import Finished
from tests.cli.conftest import cli as cli

EMBEDDINGS = "embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def skills(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two patches of the tuned model that overlap, its largest movements and all of those in one layer; and a base with
    another vocabulary."""
    folder = tmp_path_factory.mktemp("skills")
    save_patch(diff_checkpoints(shelf / "base", shelf / "tuned", budget=300), folder / "top.safetensors")
    for name, scope, stored in (("layer", r"layer\.1\.", False), ("stored", r"layer\.1\.", True)):
        patch = diff_checkpoints(shelf / "base", shelf / "tuned", scope=scope, with_base_values=stored)
        save_patch(patch, folder / f"{name}.safetensors")
    save_patch(load_patch(folder / "top.safetensors").mask, folder / "mask.safetensors")
    shutil.copytree(shelf / "base", folder / "wide")
    weights = load_file(shelf / "base" / "model.safetensors")
    save_file(weights | {EMBEDDINGS: torch.zeros(99, 32)}, folder / "wide" / "model.safetensors")
    rest = exclude_patches(patch, folder / "top.safetensors")
    save_patch(dataclasses.replace(rest, base_values=None), folder / "rest.safetensors")
    return folder


def test_compose_inspect_and_exclude(skills: Path, base: Path, tmp_path: Path, cli: Cli) -> None:
    both, top, layer = tmp_path / "both.safetensors", skills / "top.safetensors", skills / "layer.safetensors"
    made = cli("compose", top, layer, "--base", base, "-o", both, "--json")
    assert (made.code, made.err) == (0, "")
    result = json.loads(made.out)
    masks = [load_patch(file).mask for file in (top, layer)]
    assert result["k"] == len(masks[0] | masks[1])
    assert result["overlap"]["shared"] == len(masks[0] & masks[1]) > 0
    assert result["overlap"]["pairs"] == [{"a": "top", "b": "layer", "shared": len(masks[0] & masks[1])}]
    assert cli("verify", both, "--base", base, "--full").code == 0
    assert str(skills) not in both.read_bytes().decode("latin1")  # no path in the file
    rest = cli("exclude", both, "--without", layer, "--base", base, "-o", tmp_path / "rest")
    assert f"removed      {len(masks[1]):,} entries" in rest.out
    assert load_patch(tmp_path / "rest").mask == masks[0] - masks[1]
    assert cli("verify", tmp_path / "rest", "--base", base).code == 0


def test_excluding_says_what_went_because_another_brings_it_whole(tmp_path: Path, cli: Cli) -> None:
    tensors = {"layers.0.w": torch.zeros(4), "cls.weight": torch.zeros(2, 4)}
    part = make_patch(tensors, {"layers.0.w": {1: 5.0}, "cls.weight": {0: 1.0, 3: 2.0}}, with_base_values=True)
    dense = {"cls.weight": torch.ones(3, 4)}
    whole = make_patch(tensors, {"layers.0.w": {2: 7.0}}, with_base_values=True, dense=dense)
    for name, patch in (("part", part), ("whole", whole)):
        save_patch(patch, tmp_path / name)
    rest = cli("exclude", tmp_path / "part", "--without", tmp_path / "whole", "-o", tmp_path / "one")
    assert "removed      2 entries, 2 of them in modules that the others bring whole\n" in rest.out
    rest = cli("exclude", tmp_path / "whole", "--without", tmp_path / "part", "-o", tmp_path / "two")
    assert "removed      0 entries; whole: cls.weight\n" in rest.out
    again = ("exclude", tmp_path / "whole", "--without", tmp_path / "part", "-o", tmp_path / "three", "--json")
    told = json.loads(cli(*again).out)
    assert (told["removed"], told["torn"], told["whole"]) == (0, 0, ["cls.weight"])


def test_a_skill_is_put_back_to_the_base_in_a_tuned_model(
    skills: Path, base: Path, tuned: Path, tmp_path: Path, cli: Cli
) -> None:
    regions = ["--without", skills / "mask.safetensors", "--without", skills / "layer.safetensors"]
    made = cli("exclude", tuned, *regions, "--base", base, "-o", tmp_path / "less", "--json")
    union = load_patch(skills / "top.safetensors").mask | load_patch(skills / "layer.safetensors").mask
    assert json.loads(made.out) == {"output": str(tmp_path / "less"), "k": len(union)}
    models = [Checkpoint.open(path) for path in (base, tuned, tmp_path / "less")]
    for name in models[0].parameters:
        before, after, found = (model.read(name).flatten() for model in models)
        wanted = after.clone()
        wanted[list(union[name])] = before[list(union[name])]
        assert same_bits(found, wanted)
    refused = cli("exclude", tuned, *regions, "-o", tmp_path / "more")
    assert (refused.code, refused.err.splitlines()[-1]) == (
        2,
        "Error: to put regions of a model back to the base, give --base MODEL",
    )


def test_overlap_shows_pairs_chance_and_clusters(skills: Path, tmp_path: Path, cli: Cli) -> None:
    files = [skills / f"{name}.safetensors" for name in ("top", "layer", "mask")]
    shown = cli("overlap", *files)
    assert (shown.code, shown.err) == (0, "")
    assert f"{files[0]}  {files[2]}\n  shared 300: jaccard 1.0000, 100.00% of the first" in shown.out
    assert "over all weights" in shown.out
    assert shown.out.splitlines()[-1].startswith(f"clusters at 0.1: {files[0]}")
    result = json.loads(cli("overlap", *files, "--threshold", 1, "--json").out)
    assert result["clusters"] == [[str(files[0]), str(files[2])], [str(files[1])]]
    assert {"a", "b", "intersection", "jaccard", "share_of_b", "expected"} < set(result["pairs"][0])
    wrote = cli("overlap", *files, "-o", tmp_path / "out")
    assert wrote.out.endswith(f"wrote {tmp_path / 'out'}\n")
    assert "overlap_map.png" in files_below(tmp_path / "out")
    assert "exists already" in cli("overlap", *files, "-o", tmp_path / "out").err
    assert cli("overlap", *files, "-o", tmp_path / "out", "--force").code == 0


def test_folders_are_tasks_over_several_seeds(skills: Path, tmp_path: Path, cli: Cli) -> None:
    for place in ("a/0", "a/1", "b/0"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        shutil.copy(skills / ("top.safetensors" if place == "a/0" else "layer.safetensors"), tmp_path / place)
    files = [tmp_path / place for place in ("a/0", "a/1", "b/0")]
    shown = cli("overlap", *files, "--by-folder", "-o", tmp_path / "out")
    first, ceiling, wrote = shown.out.splitlines()
    assert first.startswith("a  b: jaccard 0.")
    assert ceiling.startswith("a, two seeds: jaccard 0.")
    assert wrote == f"wrote {tmp_path / 'out'}"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "overlap.json",
        "overlap_map.png",
    ]
    found = json.loads(cli("overlap", *files, "--by-folder", "--json").out)
    assert found == json.loads((tmp_path / "out" / "overlap.json").read_text())
    assert found["jaccard"][0][1] == pytest.approx((found["jaccard"][0][0] + 1) / 2)  # one of two pairs is of equals
    assert found["jaccard"][1][1] is None
    shutil.copytree(tmp_path / "a", tmp_path / "c" / "a")
    refused = cli("overlap", *files, tmp_path / "c" / "a" / "0", "--by-folder")
    assert (refused.code, refused.err.splitlines()[-1]) == (2, "Error: --by-folder: two folders have one name")


def test_the_patches_of_a_run_are_seeds_of_one_method_each(skills: Path, tmp_path: Path, cli: Cli) -> None:
    patches = tmp_path / "run" / "patches"
    patches.mkdir(parents=True)
    for name in ("learned-seed-0", "learned-seed-1", "random-seed-0", "random-seed-1"):
        source = "top.safetensors" if name.startswith("learned") else "layer.safetensors"
        shutil.copy(skills / source, patches / f"{name}.safetensors")
    found = json.loads(cli("overlap", *sorted(patches.iterdir()), "--by-folder", "--json").out)
    assert found["names"] == ["run, learned", "run, random"]
    assert found["jaccard"][0][0] == found["jaccard"][1][1] == 1  # two seeds, not two methods
    assert found["jaccard"][0][1] < 1


def test_fuse_writes_a_model_and_says_what_it_did(
    skills: Path, base: Path, tuned: Path, tmp_path: Path, cli: Cli
) -> None:
    other = tmp_path / "other"
    assert cli("apply", base, skills / "layer.safetensors", "-o", other).code == 0
    settings = ["--core", 0.02, "--threshold", 0.5, "--angle", "model"]
    made = cli("fuse", base, tuned, other, "-o", tmp_path / "out", *settings, "--json")
    assert (made.code, made.err) == (0, "")
    result = json.loads(made.out)
    assert result["spec"] == {
        "method": "cpi", "density": 0.2, "core": 0.02, "threshold": 0.5, "rest": "slerp", "angle": "model"
    }  # fmt: skip
    assert result["models"] == ["tuned", "other"]
    assert result["selected"] == [int(0.02 * result["n_fused"] + 0.5)] * 2
    assert Checkpoint.open(tmp_path / "out").names == Checkpoint.open(base).names
    shown = cli("fuse", base, tuned, other, "-o", tmp_path / "mean", "--method", "mean")
    assert shown.out.splitlines()[0].split() == ["method", "mean"]
    assert shown.out.endswith(f"wrote {tmp_path / 'mean'}\n")
    found = [Checkpoint.open(tmp_path / name) for name in ("out", "mean")]
    assert any(not same_bits(found[0].read(name), found[1].read(name)) for name in found[0].names)


Case = Callable[[Path, Path], list[object]]
CASES: dict[str, tuple[str, Case]] = {
    "no base values": (
        r"base's values are needed there .*: give --base MODEL \(base\)",
        lambda s, b: ["compose", s / "top.safetensors", s / "rest.safetensors"],
    ),
    "a mask to compose": (
        r"mask.safetensors: a mask holds no values",
        lambda s, b: ["compose", s / "top.safetensors", s / "mask.safetensors"],
    ),
    "a model to compose": (
        r"not a skill patch",
        lambda s, b: ["compose", s / "top.safetensors", b / "model.safetensors"],
    ),
    "nothing left": (
        r"nothing is left of top: every entry lies in mask",
        lambda s, b: ["exclude", s / "top.safetensors", "--without", s / "mask.safetensors"],
    ),
    "a wrong base": (
        r"top does not fit .*tuned: tensor",
        lambda s, b: ["compose", s / "top.safetensors", s / "layer.safetensors", "--base", b.parent / "tuned"],
    ),
    "one patch to compare": (r"two patches or more", lambda s, b: ["overlap", s / "top.safetensors"]),
    "one model to fuse": (r"two tuned models or more", lambda s, b: ["fuse", b, b.parent / "tuned"]),
    "a core of nothing": (r"fuse: core must be above 0", lambda s, b: ["fuse", b, b, b, "--core", 0]),
    "a patch to fuse": (r"another architecture", lambda s, b: ["fuse", b, b, s / "top.safetensors"]),
    "another vocabulary": (
        r"'embeddings.word_embeddings.weight' is \[99, 32\], its config.json asks for \[\d+, 32\]",
        lambda s, b: ["fuse", b, b.parent / "tuned", s / "wide"],
    ),
    "too many": (r"1,025 patches at once", lambda s, b: ["compose", *[s / "top.safetensors"] * 1025]),
}


@pytest.mark.parametrize(("said", "case"), CASES.values(), ids=CASES)
def test_one_line_and_nothing_written(
    said: str, case: Case, skills: Path, base: Path, tmp_path: Path, cli: Cli
) -> None:
    finished: Finished = cli(*case(skills, base), "-o", tmp_path / "new" / "out")
    assert (finished.code, finished.out) == (1, "")
    assert re.fullmatch(rf"error: .*{said}.*\n", finished.err), finished.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rule", ["first", "last", "mean", "sign", "slerp"])
def test_apply_takes_every_rule(rule: str, skills: Path, base: Path, tmp_path: Path, cli: Cli) -> None:
    patch = load_patch(skills / "top.safetensors")
    moved = {name: values * 2 for name, values in patch.values.items()}
    other = type(patch)(patch.mask, moved, patch.base_hashes, patch.provenance)
    save_patch(other, tmp_path / "other")
    pair = [skills / "top.safetensors", tmp_path / "other"]
    assert "different values" in cli("apply", base, *pair, "-o", tmp_path / "no").err
    assert cli("apply", base, *pair, "-o", tmp_path / "all", "--on-overlap", rule).code == 0
    assert cli("compose", *pair, "--base", base, "-o", tmp_path / "one", "--on-overlap", rule).code == 0
    assert cli("apply", base, tmp_path / "one", "-o", tmp_path / "two").code == 0
    assert (tmp_path / "all" / "model.safetensors").read_bytes() == (
        tmp_path / "two" / "model.safetensors"
    ).read_bytes()


def test_compose_a_chain(skills: Path, base: Path, tuned: Path, tmp_path: Path, cli: Cli) -> None:
    first, second, whole = skills / "top.safetensors", tmp_path / "second.safetensors", tmp_path / "whole.safetensors"
    assert cli("apply", base, first, "-o", tmp_path / "middle").code == 0
    assert cli("diff", tmp_path / "middle", tuned, "-o", second).code == 0
    made = cli("compose", first, second, "--chain", "--base", base, "-o", whole, "--json")
    assert (made.code, made.err) == (0, "")
    assert json.loads(made.out)["restored"] == 0
    assert cli("verify", whole, "--base", base, "--result", "--against", tuned).code == 0
    wrong = cli("compose", second, first, "--chain", "--base", base, "-o", tmp_path / "wrong")
    assert (wrong.code, wrong.err.count("\n")) == (1, 1)
    assert "second does not fit" in wrong.err
    assert "top comes first in the chain" in wrong.err
    refused = cli("compose", first, second, "--chain", "--on-overlap", "last", "-o", tmp_path / "wrong")
    assert refused.code == 2
    assert "--on-overlap does not go with --chain" in refused.err
