"""Which axis of a matrix is its input, by the class of its module alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.utils import parametrize
from transformers import (
    DebertaV2Config,
    DebertaV2Model,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    T5Config,
    T5Model,
)
from transformers.pytorch_utils import Conv1D

from graft.errors import CheckpointError
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.transposed import (
    find_input_axes,
    find_transposed,
    is_conv1d,
    is_plain_conv1d,
    is_plain_linear,
)
from tests.checkpoints import write_single


class Scaled(Conv1D):
    """Its weight is stored as the library's, and more is done."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def namesake() -> torch.nn.Module:
    """A linear layer of remote code that has the library's name and one of its attributes."""
    made: torch.nn.Module = type("Conv1D", (torch.nn.Linear,), {"nf": 4})(4, 4)
    return made


def test_a_class_is_known_by_itself_and_not_by_its_name() -> None:
    plain = Conv1D(4, 4)
    wrapped = Conv1D(4, 4)
    parametrize.register_parametrization(wrapped, "weight", torch.nn.Identity())
    assert type(wrapped).__name__ != "Conv1D"
    assert [is_conv1d(module) for module in (plain, Scaled(4, 4), wrapped)] == [True] * 3
    assert [is_plain_conv1d(module) for module in (plain, Scaled(4, 4), wrapped)] == [True, False, True]
    assert not is_conv1d(namesake())
    assert is_plain_linear(namesake())
    assert not is_plain_linear(plain)


def test_square_layers_of_a_folder(tmp_path: Path) -> None:
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = GPT2Config(
        n_embd=8, n_layer=1, n_head=2, n_inner=8, vocab_size=16, n_positions=8, add_cross_attention=True, **ends
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    base = Checkpoint.open(tmp_path)
    block = "transformer.h.0."
    layers = ("mlp.c_fc", "attn.c_proj", "crossattention.q_attn")
    told = {f"{block}{layer}.weight": True for layer in layers} | {"transformer.wte.weight": False}
    assert find_transposed(base, list(told)) == told
    assert set(find_input_axes(base, list(told)).values()) == {0}  # embeddings are numbered by token


def test_packed_experts_say_how_they_are_stored(tmp_path: Path) -> None:
    config = GptOssConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        head_dim=8, num_local_experts=2, vocab_size=16, layer_types=["full_attention"], pad_token_id=0,
    )  # fmt: skip
    GptOssForCausalLM(config).save_pretrained(tmp_path)
    name = "model.layers.0.mlp.experts.down_proj"
    assert find_transposed(Checkpoint.open(tmp_path), [name]) == {name: True}


@pytest.mark.parametrize("layer", ["attn.c_proj", "crossattention.q_attn"])
def test_without_a_config_a_layer_that_may_be_either_is_refused(layer: str, tmp_path: Path) -> None:
    name = f"h.0.{layer}.weight"
    bare = write_single(tmp_path / "bare", {name: torch.zeros(4, 4), "h.0.w.weight": torch.zeros(4, 4)})
    base = Checkpoint.open(bare)
    assert find_input_axes(base, ["h.0.w.weight"]) == {"h.0.w.weight": 1}
    with pytest.raises(CheckpointError, match="which axis is its input is told by the model"):
        find_input_axes(base, [name])


def test_an_embedding_is_one_by_its_class_and_not_by_its_name(tmp_path: Path) -> None:
    """A projection beside the embeddings is none, and a table of biases by distance is one within a layer."""
    sizes = {"vocab_size": 16, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    DebertaV2Model(DebertaV2Config(embedding_size=4, intermediate_size=8, **sizes)).save_pretrained(tmp_path / "a")
    T5Model(T5Config(vocab_size=16, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).save_pretrained(
        tmp_path / "b"
    )
    axes = {
        ("a", "embeddings.word_embeddings.weight"): 0,
        ("a", "embeddings.embed_proj.weight"): 1,
        ("b", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"): 0,
        ("b", "encoder.block.0.layer.0.SelfAttention.q.weight"): 1,
    }
    for (folder, name), axis in axes.items():
        assert find_input_axes(Checkpoint.open(tmp_path / folder), [name]) == {name: axis}
