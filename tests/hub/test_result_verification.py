"""A lineage proved: the digest of what base and patches give, published, checked, and compared with checkpoints."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from graft.errors import ConfigError, PatchMismatchError
from graft.hub.push import push_patch
from graft.hub.result_verification import digest_result, verify_result
from graft.localize.diff import diff_checkpoints
from graft.patch.format.declaration import FILE_NAME
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from graft.patch.merge import merge_patches
from graft.patch.skill_patch import Patch
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.hashing import digest_of
from tests.cli.conftest import Cli as Cli
from tests.cli.conftest import cli as cli
from tests.hub.client import Client
from tests.hub.local_hub import LocalHub


@pytest.fixture(scope="module")
def merged(skill: Path, shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base with the skill, written."""
    folder = tmp_path_factory.mktemp("merged") / "merged"
    merge_patches(Checkpoint.open(shelf / "base"), [load_patch(skill)], folder)
    return folder


def stating(skill: Path, digest: str, file: Path) -> Path:
    patch = load_patch(skill)
    save_patch(dataclasses.replace(patch, provenance=dataclasses.replace(patch.provenance, result=digest)), file)
    return file


def changed_copy(folder: Path, copy: Path, name: str) -> Path:
    """A copy of a model with one value of one tensor changed."""
    shutil.copytree(folder, copy)
    tensors = load_file(copy / "model.safetensors")
    tensors[name].view(-1)[0] += 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def test_the_digest_and_the_checkpoint_that_has_it(skill: Path, shelf: Path, merged: Path, cli: Cli) -> None:
    digest = digest_of(Checkpoint.open(merged))
    said = cli("verify", skill, "--base", shelf / "base", "--result", "--against", merged)
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines() == ["fits", f"result sha256 {digest}", f"{merged} is that model, bit for bit"]
    again = cli("verify", skill, "--base", shelf / "base", "--result", "--json")
    assert json.loads(again.out) == {"fits": True, "reasons": [], "result": digest, "stated": None}


def test_a_checkpoint_that_is_another_model(skill: Path, shelf: Path, merged: Path, tmp_path: Path, cli: Cli) -> None:
    name = max(set(Checkpoint.open(merged).names))
    other = changed_copy(merged, tmp_path / "other", name)
    said = cli("verify", skill, "--base", shelf / "base", "--result", "--against", other)
    n = Checkpoint.open(merged).spec(name).numel
    assert said.code == 1
    assert said.out.splitlines()[-1] == (
        f"{other} is not that model: 1 tensor differs, first {name!r}: 1 of {n:,} values"
    )
    found = json.loads(cli("verify", skill, "--base", shelf / "base", "--result", "--against", other, "--json").out)
    assert (found["is_result"], found["differing"]) == (False, {name: f"1 of {n:,} values"})
    assert cli("verify", skill, "--base", shelf / "base", "--result", "--against", shelf / "tuned").code == 1


def test_a_base_that_differs_elsewhere_is_told(skill: Path, shelf: Path, tmp_path: Path, cli: Cli) -> None:
    mask = load_patch(skill).mask
    name = next(name for name in Checkpoint.open(shelf / "base").names if name not in mask)
    other = changed_copy(shelf / "base", tmp_path / "other", name)
    assert cli("verify", skill, "--base", other).code == 0  # it fits, and that is not seen
    said = cli("verify", skill, "--base", other, "--result")
    assert said.code == 1
    assert "the base's digest is" in said.out


def test_a_published_digest_must_be_the_right_one(
    skill: Path, shelf: Path, merged: Path, tmp_path: Path, cli: Cli
) -> None:
    right = stating(skill, digest_of(Checkpoint.open(merged)), tmp_path / "right.safetensors")
    said = cli("verify", right, "--base", shelf / "base", "--result")
    assert said.code == 0
    assert said.out.rstrip().endswith("(as published)")
    wrong = stating(skill, "ab" * 32, tmp_path / "wrong.safetensors")
    said = cli("verify", wrong, "--base", shelf / "base", "--result")
    assert said.code == 1
    assert "the patch states the result abababababababab…, base and patch give" in said.out
    with pytest.raises(PatchMismatchError, match="the patch states the result abababababababab…"):
        push_patch(wrong, "alice/moods", base=shelf / "base", dry_run=True)
    with pytest.raises(PatchMismatchError, match="does not fit"):
        push_patch(right, "alice/moods", base=shelf / "tuned", dry_run=True)
    save_patch(load_patch(right).mask, tmp_path / "mask.safetensors")
    with pytest.raises(ConfigError, match="a mask holds no values"):
        push_patch(tmp_path / "mask.safetensors", "alice/moods", base=shelf / "base", dry_run=True)


def test_a_push_with_the_base_states_the_digest_in_file_and_card(
    skill: Path, shelf: Path, merged: Path, tmp_path: Path
) -> None:
    digest = digest_of(Checkpoint.open(merged))
    bare = push_patch(skill, "alice/moods", dry_run=True)
    assert "Result: sha256" not in bare.card
    assert bare.files[FILE_NAME] == skill.read_bytes()
    pushed = push_patch(skill, "alice/moods", base=shelf / "base", dry_run=True)
    assert f"Result: sha256 {digest}, check with `graft verify --result`." in pushed.card
    (tmp_path / "p.safetensors").write_bytes(pushed.files[FILE_NAME])
    assert load_patch(tmp_path / "p.safetensors").provenance.result == digest
    assert push_patch(tmp_path / "p.safetensors", "alice/moods", dry_run=True).card == pushed.card


def test_several_patches_by_a_rule(shelf: Path, tmp_path: Path, cli: Cli) -> None:
    base = shelf / "base"
    files = []
    for name, options in {"top": {"budget": 100}, "layer": {"budget": 50, "scope": r"layer\.1\."}}.items():
        files.append(tmp_path / f"{name}.safetensors")
        save_patch(diff_checkpoints(base, shelf / "tuned", **options), files[-1])  # type: ignore[arg-type]
    merge_patches(Checkpoint.open(base), list(map(load_patch, files)), tmp_path / "out", on_overlap="mean")
    options = ["--base", base, "--result", "--on-overlap", "mean", "--against", tmp_path / "out"]
    assert cli("verify", *files, *options).code == 0
    for wrong, fact in {("--against", "x"): "--against needs", ("--on-overlap", "last"): "--on-overlap needs"}.items():
        refused = cli("verify", files[0], "--base", base, *wrong)
        assert (refused.code, f"{fact} --result" in refused.err) == (2, True)
    assert "several patches need --result" in cli("verify", *files, "--base", base).err


def test_from_the_hub_a_misfit_is_told_by_headers_and_a_fit_by_digest(
    hub: LocalHub, alice: Client, carol: Client, skill: Path, shelf: Path, merged: Path
) -> None:
    alice("push", skill, "proved", "--base-model", "bob/base", "--base", shelf / "base", "--json").json()
    said = carol("verify", "alice/proved", "--base", "bob/base", "--result", "--json").json()
    assert said["result"] == said["stated"] == digest_of(Checkpoint.open(merged))
    hub.add("bob/other", {"model.safetensors": skill.read_bytes()})
    wrong = carol("verify", "alice/proved", "--base", "bob/other", "--result", "--json")
    found = json.loads(wrong.out)
    assert (wrong.code, found["fits"], found["result"]) == (1, False, None)


def test_digest_result_names_the_base(skill: Path, shelf: Path, merged: Path) -> None:
    patch: Patch = load_patch(skill)
    assert digest_result(patch, shelf / "base") == verify_result([str(skill)], str(shelf / "base")).digest
    with pytest.raises(PatchMismatchError, match="does not fit"):
        digest_result(patch, shelf / "tuned")
