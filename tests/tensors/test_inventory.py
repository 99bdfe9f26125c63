"""Inventory of a folder: missing and foreign tensors are refused by name, legacy ones left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from graft.errors import CheckpointError
from graft.files.weight_index import ADAPTER, INDEX
from graft.specs.head import HeadSpec
from graft.specs.runtime import Runtime
from graft.specs.task import TaskSpec
from graft.tasks.head import open_head
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.scope import layer_of
from tests.architectures import KINDS, Tensors
from tests.models import toy_spec, write_llama

FILE = "model.safetensors"
LM: TaskSpec = toy_spec(head=HeadSpec(kind="lm"), labels=())
Change = Callable[[Tensors], Tensors]


def rewrite(folder: Path, change: Change) -> Path:
    save_file(change(load_file(folder / FILE)), folder / FILE, metadata={"format": "pt"})
    return folder


def reconfigure(folder: Path, **keys: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | keys))
    return folder


def without(*names: str) -> Change:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if name not in names}


Q, EXTRA = "model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.q_norm.weight"


def test_a_whole_folder_opens(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_llama(tmp_path / "base"))
    assert checkpoint.inventory is not None
    assert (checkpoint.inventory.missing, checkpoint.left_out) == ((), frozenset())


@pytest.mark.parametrize(
    ("change", "config", "fact"),
    [
        (without(Q), {}, rf"lacks the tensor '{Q}', which"),
        (lambda t: without(Q)(t) | {f"{Q}s": t[Q]}, {}, rf"lacks the tensor '{Q}', which"),
        (lambda t: {"embed": torch.ones(3)}, {}, r"lacks the tensor .* \(and \d+ more\)"),
        (dict, {"num_hidden_layers": 3}, r"lacks the tensor 'model\.layers\.2\."),
        (without("lm_head.weight"), {}, r"lacks the tensor 'lm_head\.weight'"),
        (dict, {"model_type": "bert", "architectures": ["BertModel"]}, r"lacks the tensor 'embeddings\."),
        (lambda t: t | {EXTRA: torch.ones(16)}, {}, rf"holds the tensor '{EXTRA}', which no model"),
        (lambda t: t | {f"{Q}_scale": torch.ones(1)}, {}, r"holds the tensor .*_scale'"),
        (lambda t: t | {Q: t[Q][:-1]}, {}, rf"tensor '{Q}' is \[31, 32\], its config.json asks for \[32, 32\]"),
    ],
    ids=["one", "renamed", "all", "more layers", "untied", "another type", "within a layer", "a scale", "another size"],
)
def test_what_is_missing_or_foreign_is_refused_by_name(
    change: Change, config: dict[str, Any], fact: str, tmp_path: Path
) -> None:
    folder = reconfigure(rewrite(write_llama(tmp_path / "base"), change), **config)
    with pytest.raises(CheckpointError, match=fact):
        Checkpoint.open(folder)
    with pytest.raises(CheckpointError, match=r"lacks|holds|asks for|causal language model"):
        open_head(folder, LM)


def test_what_files_may_hold_besides_is_left_out_and_does_not_count(tmp_path: Path) -> None:
    n = Checkpoint.open(write_llama(tmp_path / "base")).n_parameters
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.rand(8),
        "model.layers.2.self_attn.q_proj.weight": torch.rand(32, 32),  # a layer past the last
        "mtp.head.weight": torch.rand(4, 4),
        "score.weight": torch.rand(2, 32),
    }
    checkpoint = Checkpoint.open(rewrite(tmp_path / "base", lambda tensors: tensors | extra))
    assert checkpoint.left_out == extra.keys()
    assert checkpoint.n_parameters == n


def test_tied_weights_may_be_listed_once(tmp_path: Path) -> None:
    kind = next(kind for kind in KINDS if kind.name == "Qwen2ForCausalLM")
    kind.build(0).save_pretrained(tmp_path / "base")
    assert "lm_head.weight" not in load_file(tmp_path / "base" / FILE), "the control: it is not listed"
    assert Checkpoint.open(tmp_path / "base").names
    with pytest.raises(CheckpointError, match=r"lacks the tensor 'lm_head\.weight'"):
        Checkpoint.open(reconfigure(tmp_path / "base", tie_word_embeddings=False))


def test_an_adapter_beside_or_instead_of_weights_is_refused(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "base")
    (folder / ADAPTER).write_text("{}")
    with pytest.raises(CheckpointError, match=r"holds an adapter .* beside its weights"):
        Checkpoint.open(folder)
    (folder / FILE).unlink()
    with pytest.raises(CheckpointError, match=r"holds an adapter .* and no weights of a model"):
        Checkpoint.open(folder)


def test_the_index_counts_and_not_the_single_file_beside_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = write_llama(tmp_path / "base")
    tensors = load_file(folder / FILE)
    expected = open_head(folder, LM).model.state_dict()
    names = sorted(tensors)
    for number, part in enumerate((names[:5], names[5:])):
        save_file({name: tensors[name] for name in part}, folder / f"s{number}.safetensors", metadata={"format": "pt"})
    shards = dict.fromkeys(names[:5], "s0.safetensors") | dict.fromkeys(names[5:], "s1.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    rewrite(folder, lambda tensors: {name: tensor * 0.5 for name, tensor in tensors.items()})
    loaded = open_head(folder, LM).model.state_dict()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    assert all(torch.equal(Checkpoint.open(folder).read(name), tensors[name]) for name in names)
    assert "weights not named by the checkpoint are left out: model.safetensors" in capfd.readouterr().err


@pytest.mark.parametrize(("twice", "place"), [(True, r"in s0\.safetensors"), (False, "nowhere")])
def test_a_shard_that_holds_what_the_index_has_elsewhere_is_refused(twice: bool, place: str, tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "base")
    tensors = load_file(folder / FILE)
    (folder / FILE).unlink()
    names = sorted(tensors)
    shards = {"s0.safetensors": names[:5], "s1.safetensors": names[5:]}
    for shard, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / shard, metadata={"format": "pt"})
    listed = {name: shard for shard, part in shards.items() for name in part}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    assert Checkpoint.open(folder).names == tuple(names), "the control: two sound shards"
    stale = names[0] if twice else "stale.weight"
    more = {stale: torch.zeros_like(tensors[names[0]])}
    save_file({name: tensors[name] for name in names[5:]} | more, folder / "s1.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"holds '{stale}', which the index has {place}"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("declared", ["bfloat16", "float32", "float16", None])
def test_the_dtype_is_that_of_the_files_whatever_the_config_says(declared: str | None, tmp_path: Path) -> None:
    folder = reconfigure(write_llama(tmp_path / "base"), dtype=declared, torch_dtype=declared)
    assert open_head(folder, LM).model.dtype == torch.float32
    rewrite(folder, lambda tensors: {name: tensor.bfloat16() for name, tensor in tensors.items()})
    assert open_head(folder, LM).model.dtype == torch.bfloat16
    assert open_head(folder, LM, runtime=Runtime(dtype="float32")).model.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("encoder.albert_layer_groups.0.albert_layers.0.ffn.weight", "encoder.albert_layer_groups.0"),
        ("transformer.attentions.3.q_lin.weight", "transformer.attentions.3"),
        ("swin.encoder.layers.1.blocks.0.attn.weight", "swin.encoder.layers.1"),
        ("encoder.stages.2.layers.1.conv.weight", "encoder.stages.2"),
        ("transformer.h.11.attn.c_attn.weight", "transformer.h.11"),
        ("model.norm.weight", "heads"),
        ("classifier.0.weight", "heads"),
    ],
)
def test_layers_by_other_names_are_layers(name: str, layer: str) -> None:
    assert layer_of(name) == layer
