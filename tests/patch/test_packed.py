"""Experts that files list one by one and the model holds packed: every way to touch them touches the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import MixtralForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

import graft
from graft.errors import MismatchError, OverlapError, PatchMismatchError
from graft.patch.live import LiveTarget
from graft.patch.mask import Mask
from graft.patch.merge import merge_patches
from graft.scores.gradients import DenseSum, capture_gradients
from graft.specs.regularize import RegularizeSpec
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import same_bits, take
from graft.tensors.hashing import hash_values
from graft.tensors.live_weight import Owners
from graft.tensors.packed import PackedPart
from graft.tensors.pair import CheckpointPair
from graft.tensors.relayout import relay_all
from graft.train.importance.importance_weights import ImportanceWeights
from graft.train.importance.synaptic_intelligence import SynapticIntelligence
from graft.train.l1_proximal import L1Proximal
from graft.train.penalty import Penalty
from graft.train.protection.protected_set import ProtectedSet, protected_entries
from graft.train.trainable_weights import match_trainable
from tests.architectures import DECODER, KINDS, VOCABULARY
from tests.checkpoints import make_patch, write_single

MIXTRAL = next(kind for kind in KINDS if kind.name == "MixtralForCausalLM")
EXPERT = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
OWNER = "model.layers.1.mlp.experts.gate_up_proj"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    MIXTRAL.build(0).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def model(base: Path) -> Any:
    return MixtralForCausalLM.from_pretrained(base).eval()


def backward(model: Any) -> None:
    ids = torch.randint(4, VOCABULARY, (4, 12), generator=torch.Generator().manual_seed(0))
    model(input_ids=ids, labels=ids).loss.backward()


def slice_of(packed: torch.Tensor) -> torch.Tensor:
    """Return expert 2's w3 by hand: the second half of its rows in the packed parameter."""
    return packed[2, packed.shape[1] // 2 :]


def test_a_name_in_the_files_is_a_view_of_the_packed_parameter(model: Any, base: Path) -> None:
    target = LiveTarget(model)
    own_name = target.match([EXPERT]).found[EXPERT]
    assert same_bits(target.tensors[own_name], load_file(base / "model.safetensors")[EXPERT])
    packed = model.get_parameter(OWNER).detach()
    indices = torch.tensor([0, 5, 100])
    owned = Owners(model).entries(own_name, target.tensors[own_name], indices)
    assert owned.name == OWNER
    assert torch.equal(packed.flatten()[owned.indices], slice_of(packed).flatten()[indices])


@given(shape=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)), data=st.data())
def test_a_part_is_located_where_it_is_cut(shape: tuple[int, int, int], data: st.DataObject) -> None:
    tensor = torch.arange(shape[0] * shape[1] * shape[2]).view(shape)
    view = tensor[data.draw(st.integers(0, shape[0] - 1)), data.draw(st.integers(0, shape[1] - 1)) :]
    view = view.T if data.draw(st.booleans()) else view
    part = PackedPart("x", tuple(view.shape), view.stride(), int(view.storage_offset()))
    assert torch.equal(part.of(tensor), view)
    assert torch.equal(part.locate(torch.arange(view.numel())), view.flatten())
    positions, local = part.find(torch.arange(tensor.numel()))
    assert torch.equal(positions, view.flatten().sort().values), "all that lies in the part, and nothing else"
    assert torch.equal(view.flatten()[local], positions)


def test_gradients_of_experts_reach_the_sink_by_name(model: Any) -> None:
    backward(model)
    expected = model.get_parameter(OWNER).grad.clone()
    target = LiveTarget(model)
    weights = {name: target.tensors[target.match([name]).found[name]] for name in (EXPERT, "lm_head.weight")}
    model.zero_grad()
    with capture_gradients(model, weights, sink := DenseSum(weights)):
        backward(model)
    assert expected.any(), "the control: experts take gradients"
    assert torch.equal(sink.sums[EXPERT], slice_of(expected).flatten())


def test_training_knows_experts_by_the_names_in_the_files(model: Any, base: Path) -> None:
    checkpoint = Checkpoint.open(base)
    trained = match_trainable(model, checkpoint.names)
    assert trained.keys() == set(checkpoint.names)
    recorder, pull = SynapticIntelligence(model, checkpoint), L1Proximal(model, checkpoint)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    backward(model)
    optimizer.step()
    recorder.record(0, 1.0)
    packed = model.get_parameter(OWNER)
    moved = slice_of(packed.detach()) - checkpoint.read(EXPERT)
    assert torch.allclose(recorder.omega[EXPERT], -moved * slice_of(packed.grad), atol=1e-9)
    pull.step(1e9, optimizer)
    assert same_bits(slice_of(packed.detach()).contiguous(), checkpoint.read(EXPERT))


@pytest.mark.parametrize("step", ["gradient", "proximal"])
def test_a_penalty_holds_experts(step: str, model: Any, base: Path) -> None:
    checkpoint = Checkpoint.open(base)
    mask = Mask.of({EXPERT: checkpoint.spec(EXPERT)}, {EXPERT: np.array([3, 7])})
    importance = ImportanceWeights(mask, {EXPERT: torch.tensor([1.0, 2.0])}, 1.0,
                         {EXPERT: hash_values(checkpoint.read(EXPERT).flatten()[[3, 7]])}, "fisher")  # fmt: skip
    spec = RegularizeSpec(strength=0.5, step=step, layers="none")  # type: ignore[arg-type]
    penalty = Penalty.of(model, checkpoint, importance, spec)
    packed = model.get_parameter(OWNER)
    with torch.no_grad():
        slice_of(packed).view(-1)[[3, 7]] += 1.0
    before = slice_of(packed.detach()).clone().flatten()
    packed.grad = torch.zeros_like(packed)
    penalty.before_step()
    if step == "gradient":
        assert torch.allclose(slice_of(packed.grad).flatten()[[3, 7]], torch.tensor([1.0, 2.0]), atol=1e-5)
        assert int((packed.grad != 0).sum()) == 2
    penalty.after_step(1.0, torch.optim.SGD([packed], lr=1.0))
    moved = before - slice_of(packed.detach()).flatten()
    assert (moved[[3, 7]] > 0.4).all() if step == "proximal" else not moved.any()


def test_masks_of_experts_protect_those_entries_of_the_packed_parameter(model: Any, base: Path) -> None:
    checkpoint = Checkpoint.open(base)
    mask = Mask.of({EXPERT: checkpoint.spec(EXPERT)}, {EXPERT: np.arange(0, 500, 3)})
    before = model.get_parameter(OWNER).detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    with graft.protect(model, optimizer, [mask]):
        for _ in range(2):
            backward(model)
            optimizer.step()
            optimizer.zero_grad()
    changed = before != model.get_parameter(OWNER).detach()
    inside = torch.zeros_like(slice_of(changed)).flatten()
    inside[torch.tensor(mask[EXPERT])] = True
    assert changed.sum() > 0.9 * (changed.numel() - inside.sum()), "the control: all else moved"
    assert not slice_of(changed).flatten()[inside].any()


def test_files_in_either_layout_make_the_same_pair(base: Path, tmp_path: Path) -> None:
    apart, packed = base, tmp_path / "packed"
    MIXTRAL.build(1).save_pretrained(packed)
    MIXTRAL.rewrite(packed)
    assert EXPERT not in load_file(packed / "model.safetensors"), "the control: another layout"
    MIXTRAL.build(1).save_pretrained(tmp_path / "tuned")
    expected = load_file(tmp_path / "tuned" / "model.safetensors")[EXPERT]
    assert same_bits(CheckpointPair.open(apart, packed).read(EXPERT)[1], expected)
    base_of, tuned_of = CheckpointPair.open(packed, tmp_path / "tuned").read(OWNER)
    assert same_bits(base_of, tuned_of)


def test_patches_go_on_files_of_either_layout(base: Path, tmp_path: Path) -> None:
    folders = {"apart": base, "packed": tmp_path / "packed"}
    MIXTRAL.build(0).save_pretrained(folders["packed"])
    MIXTRAL.rewrite(folders["packed"])
    for seed in (1, 2):
        MIXTRAL.build(seed).save_pretrained(tmp_path / f"tuned{seed}")
    cut = {name: graft.diff_checkpoints(folder, tmp_path / "tuned1", density=0.05) for name, folder in folders.items()}
    assert EXPERT in cut["apart"].mask
    assert OWNER in cut["packed"].mask
    states = []
    for name, folder in folders.items():
        for number, patch in enumerate(cut.values()):
            merge_patches(Checkpoint.open(folder), [patch], tmp_path / f"{name}{number}")
            states.append(MixtralForCausalLM.from_pretrained(tmp_path / f"{name}{number}").state_dict())
    assert not same_bits(states[0][OWNER], MixtralForCausalLM.from_pretrained(base).state_dict()[OWNER])
    assert all(same_bits(states[0][name], state[name]) for state in states for name in state)
    other = graft.diff_checkpoints(folders["packed"], tmp_path / "tuned2", density=0.05)
    with pytest.raises(OverlapError, match=r"whole and in parts"):
        merge_patches(Checkpoint.open(base), [cut["apart"], other], tmp_path / "none", on_overlap="last")
    assert not (tmp_path / "none").exists()


def test_experts_of_unlike_dtypes_are_no_packed_parameter(base: Path, tmp_path: Path) -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(base / "model.safetensors").items()}
    folders = []
    for name, mixed in (("alike", {}), ("mixed", {EXPERT: tensors[EXPERT].float()})):
        folders.append(write_single(tmp_path / name, tensors | mixed, json.loads((base / "config.json").read_text())))
    alike = Checkpoint.open(folders[0])
    alike.relaid |= relay_all(alike)
    place = relay_all(alike)[OWNER].sources[EXPERT].locate(torch.arange(5))
    assert same_bits(take(alike.read(OWNER), place), tensors[EXPERT].flatten()[:5])
    patch = make_patch({OWNER: alike.read(OWNER)}, {OWNER: dict.fromkeys(sorted(place.tolist()), 0.5)})
    merge_patches(alike, [patch], tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors")[EXPERT].flatten()[:5].eq(0.5).all()  # the control
    with pytest.raises(PatchMismatchError, match=rf"does not fit mixed: tensor '{OWNER}': the model has no such"):
        merge_patches(Checkpoint.open(folders[1]), [patch], tmp_path / "none")
    assert not (tmp_path / "none").exists()
    MIXTRAL.build(0).save_pretrained(tmp_path / "packed")
    MIXTRAL.rewrite(tmp_path / "packed")
    with pytest.raises(MismatchError, match=OWNER):
        CheckpointPair.open(tmp_path / "packed", folders[1])


def test_a_packed_parameter_may_be_named_whole_and_by_its_parts_where_both_agree(
    model: Any, base: Path, tmp_path: Path
) -> None:
    MIXTRAL.build(0).save_pretrained(tmp_path / "packed")
    MIXTRAL.rewrite(tmp_path / "packed")
    for seed in (1, 2):
        MIXTRAL.build(seed).save_pretrained(tmp_path / f"tuned{seed}")
    by_parts = graft.diff_checkpoints(base, tmp_path / "tuned1")
    whole, other = (graft.diff_checkpoints(tmp_path / "packed", tmp_path / f"tuned{seed}") for seed in (1, 2))
    before = model.get_parameter(OWNER).detach().clone()
    with graft.apply_patch(model, by_parts, whole):
        assert not same_bits(model.get_parameter(OWNER).detach(), before)
    assert same_bits(model.get_parameter(OWNER).detach(), before)
    with pytest.raises(OverlapError, match=r"share memory in this model"):
        graft.apply_patch(model, by_parts, other, on_overlap="last")


def test_qwen_experts_have_names_too(tmp_path: Path) -> None:
    config = DECODER | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "head_dim": 8}
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**config))
    model.save_pretrained(tmp_path / "base")
    checkpoint = Checkpoint.open(tmp_path / "base")
    assert any(".experts.3.up_proj" in name for name in checkpoint.names), "the control: listed apart"
    target = LiveTarget(Qwen3MoeForCausalLM.from_pretrained(tmp_path / "base"))
    matched = target.match(checkpoint.names)
    assert matched.missing == ()
    for name, own_name in matched.found.items():
        assert same_bits(target.tensors[own_name].detach().contiguous(), checkpoint.read(name)), name


def test_a_packed_mask_protects_the_experts_that_the_files_list(base: Path) -> None:
    files = Checkpoint.open(base)
    owner = next(name for name in relay_all(files) if name.endswith(OWNER.removeprefix("model.")))
    packed = relay_all(files)[owner].read(files)
    core = Mask.of({owner: relay_all(files)[owner].spec}, {owner: [0, 7, packed.numel() - 1]})
    protected = protected_entries(files, ProtectedSet([core]))
    assert set(protected) <= set(files.names)
    assert len(protected) == len(core)
    held = torch.cat([take(files.read(name), torch.tensor(protected[name])) for name in protected])
    assert sorted(held.tolist()) == sorted(packed.flatten()[[0, 7, -1]].tolist())
