"""A changed copy of a model takes its companion files along, and names those that it leaves out."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from graft.compose.fusion.fuser import fuse_models
from graft.patch.merge import merge_patches
from graft.patch.model_folder import find_side_files
from graft.specs.fusion import FusionSpec
from graft.tensors.checkpoint import Checkpoint
from tests.checkpoints import files_below, make_patch, sample_tensors, write_sharded, write_single

PATCH = make_patch(sample_tensors(), {"layers.0.w": {0: 9.0}})
DENSE = "2_Dense/model.safetensors"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Write a sentence encoder with a dense layer in a folder of its own."""
    base = write_single(tmp_path / "base", sample_tensors())
    for name in ("tokenizer.json", "1_Pooling/config.json", "2_Dense/config.json"):
        put(base / name, b"{}")
    shutil.copy(write_single(tmp_path / "dense", sample_tensors(seed=3)) / "model.safetensors", base / DENSE)
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}, {"path": "original"}]
    (base / "modules.json").write_text(json.dumps(modules))
    return base


def put(path: Path, data: bytes = b"x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def make(base: Path, out: Path, how: str) -> tuple[Path, list[str]]:
    """Make a changed copy; return it and the lines on the files left out."""
    said: list[str] = []
    if how == "apply":
        merge_patches(
            Checkpoint.open(base), [PATCH], out, say=lambda line: said.append(line.removeprefix("left out: "))
        )
    else:
        said += fuse_models(base, [base, base], out, FusionSpec("mean")).files_left_out
    return out, said


BOTH = pytest.mark.parametrize("how", ["apply", "fuse"])


@BOTH
def test_weights_in_folders_of_their_own_are_parts_of_the_model(how: str, base: Path, tmp_path: Path) -> None:
    more = ["original/layer.pth", "speech/decoder/model.safetensors", "3_Dense/pytorch_model.bin"]
    for name in more:
        put(base / name)
    out, said = make(base, tmp_path / "out", how)
    assert not said
    assert files_below(out, leave_out=["graft_fusion.json"]) == files_below(base)
    for name in (DENSE, *more):
        assert (out / name).read_bytes() == (base / name).read_bytes()


@BOTH
def test_the_roots_stale_weights_and_exports_of_the_whole_model_are_left_out_by_name(
    how: str, base: Path, tmp_path: Path
) -> None:
    before = files_below(base)
    stale = ["adapter_model.safetensors", "model-00001-of-00009.safetensors", "model.gguf"]
    stale += ["pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5"]
    for name in (
        *stale,
        "onnx/model.onnx",
        "onnx/config.json",
        "openvino/model.bin",
        "checkpoint-12/model.safetensors",
    ):
        put(base / name)
    put(base / ".cache" / "hidden")
    out, said = make(base, tmp_path / "out", how)
    assert files_below(out, leave_out=["graft_fusion.json"]) == before
    folders = ["checkpoint-12/", "onnx/", "openvino/"]
    assert said == [f"{name} (stale weights)" for name in sorted([*stale, *folders])]


def test_a_stale_single_file_beside_an_index(tmp_path: Path) -> None:
    base = write_sharded(tmp_path / "base", sample_tensors(), n_shards=2)
    put(base / "model.safetensors")
    side_files = find_side_files(Checkpoint.open(base))
    assert [file.name for file in side_files.copied] == ["model.safetensors.index.json"]
    assert side_files.left_out == ("model.safetensors (stale weights)",)


@BOTH
def test_links_out_of_the_folder_are_not_followed(how: str, base: Path, tmp_path: Path) -> None:
    put(tmp_path / "secret" / "key", b"secret")
    (base / "vocab.txt").symlink_to("tokenizer.json")  # the control: within the folder
    (base / "notes.txt").symlink_to(tmp_path / "secret" / "key")
    (base / "2_Dense" / "notes.txt").symlink_to("../../secret/key")
    (base / "all").symlink_to(tmp_path / "secret")
    (base / "gone").symlink_to("nowhere")
    os.mkfifo(base / "pipe")
    out, said = make(base, tmp_path / "out", how)
    assert (out / "vocab.txt").read_bytes() == b"{}"
    assert not (out / "vocab.txt").is_symlink()
    assert [line.partition(" ")[0] for line in said] == ["2_Dense/notes.txt", "all/", "gone", "notes.txt", "pipe"]
    assert all(file.read_bytes() != b"secret" for file in out.rglob("*") if file.is_file())


@pytest.mark.parametrize("stray", [False, True])
def test_a_snapshot_in_the_hubs_cache_is_copied_whole(stray: bool, base: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--me--it"
    snapshot = repository / "snapshots" / ("a" * 40)
    for number, name in enumerate(files_below(base)):
        blob = repository / "blobs" / f"{number:040}"
        put(blob, (base / name).read_bytes())
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    if stray:  # to another repository's blob
        put(tmp_path / "hub" / "models--me--other" / "blobs" / "0", b"secret")
        (snapshot / "notes.txt").symlink_to("../../../models--me--other/blobs/0")
    out, said = make(snapshot, tmp_path / "out", "apply")
    assert files_below(out) == files_below(base)
    assert said == (["notes.txt (a link out of the model's folder)"] if stray else [])
    assert not any(file.is_symlink() for file in out.rglob("*"))
