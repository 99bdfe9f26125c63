"""A merged checkpoint equals the live graft bit for bit, in the base's own shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification, BertModel, LlamaForCausalLM

from graft.errors import OutputError, OverlapError, PatchMismatchError
from graft.patch import merge
from graft.patch.live import apply_patch
from graft.patch.merge import merge_patches
from graft.patch.skill_patch import Patch
from graft.patch.stack import Assignment
from graft.tensors.checkpoint import Checkpoint
from tests.checkpoints import (
    bits_of,
    cut,
    files_below,
    make_patch,
    nudged,
    sample_tensors,
    save_model,
    small_bert,
    small_classifier,
    small_llama,
    write_sharded,
    write_single,
)

TASK = {"name": "toy", "labels": ["no", "yes", "maybe"], "head": {"architecture": "BertForSequenceClassification"}}


def merged(base: Path, patches: list[Patch], out: Path, **options: Any) -> Path:
    assert merge_patches(Checkpoint.open(base), patches, out, **options) > 0
    return out


def all_tensors(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = Checkpoint.open(folder)
    return {name: checkpoint.read(name).clone() for name in checkpoint.names}


def metadata_of(file: Path) -> dict[str, str]:
    with safe_open(file, framework="pt") as opened:
        metadata: dict[str, str] = opened.metadata()
        return metadata


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [{}, {"max_shard_size": "2KB"}])
def test_equal_to_the_live_graft(tied: bool, dtype: torch.dtype, sizes: dict[str, Any], tmp_path: Path) -> None:
    base = save_model(small_llama(tied=tied, dtype=dtype), tmp_path / "base", **sizes)
    model = LlamaForCausalLM.from_pretrained(base, dtype=dtype)
    patch = cut(base, save_model(nudged(model), tmp_path / "tuned"))
    loaded = LlamaForCausalLM.from_pretrained(merged(base, [patch], tmp_path / "out"), dtype=dtype)
    before = bits_of(model)
    with apply_patch(model, patch):
        assert bits_of(loaded) == bits_of(model) != before
    assert bits_of(nudged(model)) == bits_of(loaded)  # the patch holds every changed entry


def test_shards_index_metadata_and_other_files_are_kept(tmp_path: Path) -> None:
    base = write_sharded(tmp_path / "base", sample_tensors(dtype=torch.float16), n_shards=3)
    for name in ("config.json", "tokenizer.json", "vocab.txt", "sub/notes.md", ".cache/secret"):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text("{}")
    for stale in ("model.safetensors", "model-00009-of-00009.safetensors", "pytorch_model.bin", "onnx/model.onnx"):
        (base / stale).parent.mkdir(exist_ok=True)
        (base / stale).write_bytes(b"stale")
    patch = make_patch(all_tensors(base), {"layers.1.w": {3: 9.0}})
    seen: list[int] = []
    out = merged(base, [patch], tmp_path / "out", progress=seen.append)
    stale_ones = ["model.safetensors", "model-00009-of-00009.safetensors", "pytorch_model.bin", "onnx/model.onnx"]
    assert files_below(out) == files_below(base, leave_out=[*stale_ones, ".cache/secret"])
    touched = Checkpoint.open(base).files["layers.1.w"].name
    for name in files_below(out):
        same = (out / name).read_bytes() == (base / name).read_bytes()
        assert same == (name != touched)
        assert (out / name).stat().st_size == (base / name).stat().st_size
    assert metadata_of(out / touched) == metadata_of(base / touched) == {"format": "pt"}
    changed = load_file(out / touched)["layers.1.w"] != load_file(base / touched)["layers.1.w"]
    assert changed.flatten().nonzero().tolist() == [[3]]
    assert sum(seen) == sum(file.stat().st_size for file in set(Checkpoint.open(base).files.values()))


def test_tied_names_that_are_listed_twice_are_both_written(tmp_path: Path) -> None:
    model = small_llama(tied=True)
    config = json.loads((save_model(model, tmp_path / "once") / "config.json").read_text())
    tensors = all_tensors(tmp_path / "once")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    base = write_single(tmp_path / "base", tensors, config)
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        patch = make_patch(tensors, {name: {5: 9.0}})
        stored = all_tensors(merged(base, [patch], tmp_path / f"by {name}"))
        assert stored["lm_head.weight"].flatten()[5] == stored["model.embed_tokens.weight"].flatten()[5] == 9.0
    patches = [make_patch(tensors, {name: {5: float(len(name))}}) for name in sorted(tensors) if "layers" not in name]
    with pytest.raises(OverlapError, match="different values"):
        merge_patches(Checkpoint.open(base), patches[:2], tmp_path / "both")
    dense = make_patch(tensors, {"model.norm.weight": {0: 9.0}}, dense={"lm_head.weight": torch.full((16, 8), 3.0)})
    stored = all_tensors(merged(base, [dense], tmp_path / "dense"))
    assert bits_of(stored)["lm_head.weight"] == bits_of(stored)["model.embed_tokens.weight"]
    assert (stored["lm_head.weight"] == 3.0).all()


@pytest.mark.parametrize("sizes", [{}, {"max_shard_size": "2KB"}])
def test_a_head_that_the_base_lacks_ends_in_a_loadable_checkpoint(sizes: dict[str, Any], tmp_path: Path) -> None:
    base = save_model(small_bert(), tmp_path / "base", **sizes)
    tuned = nudged(small_classifier(small_bert()))
    patch = cut(base, save_model(tuned, tmp_path / "tuned"), task=TASK)
    assert set(patch.dense) == {"classifier.weight", "classifier.bias"}
    out = merged(base, [patch], tmp_path / "out")
    for kind in (BertForSequenceClassification, AutoModelForSequenceClassification):
        model, report = kind.from_pretrained(out, output_loading_info=True)
        assert not report["missing_keys"] | report["unexpected_keys"]
        assert bits_of(model) == bits_of(tuned)
        assert model.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    assert bits_of(BertModel.from_pretrained(out)) == bits_of(tuned.bert)


def test_a_second_head_does_not_displace_the_first(tmp_path: Path) -> None:
    base = write_single(tmp_path / "base", sample_tensors())
    heads = {"one.w": torch.ones(3), "two.w": torch.zeros(2)}
    for i, (name, head) in enumerate(heads.items()):
        patch = make_patch(sample_tensors(), {"layers.0.w": {i: 9.0}}, dense={name: head})
        base = merged(base, [patch], tmp_path / f"out{i}")
    tensors = all_tensors(base)
    assert tensors["one.w"].tolist() == [1, 1, 1]
    assert tensors["two.w"].tolist() == [0, 0]
    assert tensors["layers.0.w"].flatten()[:2].tolist() == [9, 9]
    assert tensors.keys() == sample_tensors().keys() | heads.keys()


def test_what_a_stranger_says_of_the_task_cannot_break_the_merge(tmp_path: Path) -> None:
    base = write_single(tmp_path / "base", sample_tensors(), {"model_type": "zebra"})
    for i, task in enumerate(
        [{"labels": None, "head": None}, {"labels": 3, "head": [1]}, {"head": {"architecture": 7}}]
    ):
        patch = make_patch(sample_tensors(), {"layers.0.w": {0: 9.0}}, dense={"new": torch.ones(1)})
        object.__setattr__(patch.provenance, "task", task)
        out = merged(base, [patch], tmp_path / f"out{i}")
        assert json.loads((out / "config.json").read_text()) == {"model_type": "zebra"}


def test_odd_header_lengths_and_scalars_are_written_in_place(tmp_path: Path) -> None:
    tensors = {"x": torch.tensor(1.5), "y": torch.arange(9, dtype=torch.float64)}
    base = write_single(tmp_path / "base", tensors)
    data = (base / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    odd = (length + 3).to_bytes(8, "little") + data[8 : 8 + length] + b"   " + data[8 + length :]
    (base / "model.safetensors").write_bytes(odd)  # the format asks for no alignment
    out = merged(base, [make_patch(tensors, {"x": {0: -0.0}, "y": {8: 1e300}})], tmp_path / "out")
    stored = all_tensors(out)
    assert stored["x"].signbit()
    assert stored["y"].tolist() == [*range(8), 1e300]


def test_a_single_file_gives_a_folder(tmp_path: Path) -> None:
    base = write_single(tmp_path / "base", sample_tensors()) / "model.safetensors"
    out = merged(base, [make_patch(sample_tensors(), {"head.w": {0: 9.0}})], tmp_path / "out")
    assert files_below(out) == ["model.safetensors"]
    assert all_tensors(out)["head.w"].flatten()[0] == 9.0


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_single(tmp_path / "base", sample_tensors())


GOOD = make_patch(sample_tensors(), {"layers.0.w": {0: 9.0}})
WRONG = make_patch(sample_tensors(seed=3), {"layers.0.w": {0: 9.0}})
CLASH = make_patch(sample_tensors(), {"layers.0.w": {0: 8.0}})


@pytest.mark.parametrize(
    ("patches", "error"),
    [([WRONG], PatchMismatchError), ([GOOD, WRONG], PatchMismatchError), ([GOOD, CLASH], OverlapError)],
)
def test_nothing_is_left_after_a_refusal(
    patches: list[Patch], error: type[Exception], base: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=r"layers\.0\.w"):
        merge_patches(Checkpoint.open(base), patches, tmp_path / "new" / "out")
    assert files_below(tmp_path) == ["base/model.safetensors"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("bug")])
def test_nothing_is_left_after_a_failure(
    fault: BaseException, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise fault

    monkeypatch.setattr(merge, "_assign_dense", failing)
    with pytest.raises(OutputError if isinstance(fault, OSError) else type(fault)):
        merge_patches(Checkpoint.open(base), [GOOD], tmp_path / "new" / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["base"]


def test_an_existing_output_is_replaced_only_with_force(base: Path, tmp_path: Path) -> None:
    out = merged(base, [GOOD], tmp_path / "out")
    (out / "extra.txt").write_text("of the user")
    before = {name: (out / name).read_bytes() for name in files_below(out)}
    with pytest.raises(OutputError, match="exists already"):
        merge_patches(Checkpoint.open(base), [CLASH], out)
    assert before == {name: (out / name).read_bytes() for name in files_below(out)}
    merged(base, [CLASH], out, force=True)
    assert all_tensors(out)["layers.0.w"].flatten()[0] == 8.0
    assert files_below(out) == ["model.safetensors"]


def test_the_rule_for_overlaps_and_allow_mismatch(base: Path, tmp_path: Path) -> None:
    for rule, value in (("first", 9.0), ("last", 8.0)):
        out = merged(base, [GOOD, CLASH], tmp_path / rule, on_overlap=rule)
        assert all_tensors(out)["layers.0.w"].flatten()[0] == value
    assert all_tensors(merged(base, [WRONG], tmp_path / "any", allow_mismatch=True))["layers.0.w"].flatten()[0] == 9.0


def test_a_base_in_a_cache_of_links_is_copied_as_files(base: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "model.safetensors").symlink_to(base / "model.safetensors")
    before = (base / "model.safetensors").read_bytes()
    out = merged(snapshot, [GOOD], tmp_path / "out")
    assert not (out / "model.safetensors").is_symlink()
    assert (base / "model.safetensors").read_bytes() == before


def test_bits_of_another_dtype_are_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write_single(tmp_path / "base", sample_tensors(dtype=torch.bfloat16))
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        entries = {"layers.0.w": (torch.tensor([3]), torch.tensor([0.5], dtype=dtype))}
        monkeypatch.setattr(merge, "assign_in_files", lambda *_, held=entries, **__: Assignment(held, {}))
        if dtype == torch.bfloat16:  # the control
            merged(base, [], tmp_path / "out")
            assert Checkpoint.open(tmp_path / "out").read("layers.0.w").flatten()[3] == 0.5
            continue
        with pytest.raises(PatchMismatchError, match=r"fit base: tensor 'layers\.0\.w': dtype BF16, the values are F"):
            merge_patches(Checkpoint.open(base), [], tmp_path / "none")
        assert files_below(tmp_path) == ["base/model.safetensors", "out/model.safetensors"]
