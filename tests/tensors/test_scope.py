from __future__ import annotations

from pathlib import Path

import pytest

from graft.errors import ConfigError
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.scope import Scope, kind_of, layer_of
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
