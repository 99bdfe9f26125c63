from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from graft.errors import ConfigError
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.scope import Scope, block_of, kind_of, layer_of
from tests.checkpoints import sample_tensors, write_single

KINDS = {
    "model.layers.3.mlp.up_proj.weight": "layers",
    "bert.encoder.layer.11.output.LayerNorm.bias": "layers",
    "transformer.h.0.attn.c_attn.weight": "layers",
    "encoder.block.2.layer.0.SelfAttention.q.weight": "layers",
    "layers.1.w": "layers",
    "model.embed_tokens.weight": "embeddings",
    "embeddings.word_embeddings.weight": "embeddings",
    "transformer.wte.weight": "embeddings",
    "wpe.weight": "embeddings",
    "shared.weight": "embeddings",
    "lm_head.weight": "heads",
    "pooler.dense.weight": "heads",
    "model.norm.weight": "heads",
    "relayers.1.w": "heads",
    "head.0.w": "heads",
}


@pytest.mark.parametrize("name", KINDS)
def test_every_tensor_has_one_kind(name: str) -> None:
    assert kind_of(name) == KINDS[name]
    kinds = [kind for kind in ("layers", "embeddings", "heads") if Scope(kind).holds(name)]
    assert kinds == [KINDS[name]]
    assert Scope("all").holds(name)
    assert Scope("layers+embeddings+heads").holds(name)


def test_a_scope_is_a_sum_of_kinds_or_an_expression(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_single(tmp_path / "base", sample_tensors()))
    assert Scope().names(checkpoint) == ("layers.0.w", "layers.1.b", "layers.1.w")
    assert Scope("heads+embeddings").names(checkpoint) == ("embed.weight", "head.w")
    assert Scope("all").names(checkpoint) == checkpoint.names
    assert Scope(r"layers\.\d\.w$").names(checkpoint) == ("layers.0.w", "layers.1.w")
    with pytest.raises(ConfigError, match=r"'zebra' holds no tensor of base; choose from layers, embeddings"):
        Scope("zebra").names(checkpoint)
    with pytest.raises(ConfigError, match=r"'\(': not a regular expression"):
        Scope("(").names(checkpoint)


def test_the_layer_of_a_tensor() -> None:
    assert layer_of("bert.encoder.layer.11.output.dense.bias") == "bert.encoder.layer.11"
    assert layer_of("model.embed_tokens.weight") == "embeddings"
    assert layer_of("lm_head.weight") == "heads"


def test_a_first_layer_goes_with_every_scope(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(write_single(tmp_path / "base", sample_tensors()))
    assert Scope("all>=0").names(checkpoint) == ("head.w", "layers.0.w", "layers.1.b", "layers.1.w")
    assert Scope("all>=1").names(checkpoint) == ("head.w", "layers.1.b", "layers.1.w")
    assert Scope("layers>=1").names(checkpoint) == ("layers.1.b", "layers.1.w")
    assert Scope("layers+embeddings>=1").names(checkpoint) == ("layers.1.b", "layers.1.w")
    assert Scope(r"\.w$>=1").names(checkpoint) == ("head.w", "layers.1.w")
    for name in ("layers>=2", "embeddings>=0"):
        with pytest.raises(ConfigError, match=r"holds no tensor of base; .*, as in layers>=2, that the model has"):
            Scope(name).names(checkpoint)
    assert Scope("layers>=2").holds("bert.encoder.layer.11.output.dense.weight")
    assert not Scope("layers>=12").holds("bert.encoder.layer.11.output.dense.weight")
    with pytest.raises(ConfigError, match="not a regular expression"):
        Scope("(>=1")


TINY: dict[str, Any] = {"vocab_size": 20, "max_position_embeddings": 16}
SIZED: dict[str, Any] = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}


def small_models() -> dict[str, Any]:
    """Models that have weights between their embeddings and their blocks, and ordinary ones."""
    deberta = {"relative_attention": True, "norm_rel_ebd": "layer_norm", "pos_att_type": ["c2p"], "position_buckets": 4}
    return {
        "electra": transformers.ElectraConfig(embedding_size=4, **TINY, **SIZED),
        "bloom": transformers.BloomConfig(vocab_size=20, hidden_size=8, n_layer=1, n_head=2),
        "opt": transformers.OPTConfig(
            word_embed_proj_dim=4,
            ffn_dim=8,
            do_layer_norm_before=True,
            **TINY,
            **{key: SIZED[key] for key in ("hidden_size", "num_attention_heads", "num_hidden_layers")},
        ),
        "albert": transformers.AlbertConfig(embedding_size=4, **TINY, **SIZED),
        "deberta": transformers.DebertaV2Config(**deberta, **TINY, **SIZED),
        "bert": transformers.BertConfig(**TINY, **SIZED),
        "gpt2": transformers.GPT2Config(vocab_size=20, n_embd=8, n_head=2, n_layer=1, n_positions=16),
        "mamba": transformers.MambaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, state_size=2),
    }


@pytest.mark.parametrize("kind", small_models())
def test_nothing_in_a_scope_from_a_layer_on_acts_before_it(kind: str) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(small_models()[kind]).eval()
    names = [name for name, _ in model.named_parameters()]
    block = next(block for name in names if (block := block_of(name)))
    assert block.endswith(".0")
    read: list[Any] = []

    def keep(_: torch.nn.Module, given: tuple[Any, ...], more: dict[str, Any]) -> None:
        read.extend(x for x in (*given, *more.values()) if isinstance(x, torch.Tensor) and x.is_floating_point())

    model.get_submodule(block).register_forward_pre_hook(keep, with_kwargs=True)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        model(input_ids=ids)
        before, read = [x.clone() for x in read], []
        moved = [name for name in names if block_of(name) is None and Scope("all>=0").holds(name)]
        for name in moved:
            model.get_parameter(name).add_(torch.rand(()))
        model(input_ids=ids)
        assert before
        assert all(torch.equal(a, b) for a, b in zip(before, read, strict=True))
        # all that is left out matters there, or is a table of embeddings
        left_out = [name for name in names if not Scope("all>=0").holds(name)]
        for name in (name for name in left_out if kind_of(name) == "heads" and not name.endswith("bias")):
            read = []
            model.get_parameter(name).mul_(1.5)
            model(input_ids=ids)
            assert not all(torch.equal(a, b) for a, b in zip(before, read, strict=True)), name
            model.get_parameter(name).div_(1.5)


def test_final_norms_and_heads_come_after_the_blocks() -> None:
    for name in (
        "model.norm.weight",
        "decoder.final_layer_norm.weight",
        "decoder.project_out.weight",
        "pooler.dense.bias",
    ):
        assert Scope("heads>=3").holds(name)
    for name in ("embeddings_project.weight", "decoder.project_in.weight", "layer_norm_emb.weight"):
        assert not Scope("heads>=3").holds(name)
        assert Scope("heads").holds(name)
