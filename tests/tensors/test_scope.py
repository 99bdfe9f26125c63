from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

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
SIZED: dict[str, Any] = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 8}


def small_models() -> dict[str, Any]:
    """Models of two blocks with weights between their embeddings and blocks, or shared by blocks, and ordinary ones."""
    deberta = {"relative_attention": True, "norm_rel_ebd": "layer_norm", "pos_att_type": ["c2p"], "position_buckets": 4}
    return {
        "electra": transformers.ElectraConfig(embedding_size=4, **TINY, **SIZED),
        "bloom": transformers.BloomConfig(vocab_size=20, hidden_size=8, n_layer=2, n_head=2),
        "opt": transformers.OPTConfig(
            word_embed_proj_dim=4,
            ffn_dim=8,
            do_layer_norm_before=True,
            **TINY,
            **{key: SIZED[key] for key in ("hidden_size", "num_attention_heads", "num_hidden_layers")},
        ),
        "albert": transformers.AlbertConfig(embedding_size=4, **TINY, **SIZED | {"num_hidden_layers": 1}),
        "deberta": transformers.DebertaV2Config(**deberta, **TINY, **SIZED),
        "deberta-conv": transformers.DebertaV2Config(conv_kernel_size=3, conv_act="gelu", **deberta, **TINY, **SIZED),
        "mpnet": transformers.MPNetConfig(**TINY, **SIZED),
        "layoutlmv3": transformers.LayoutLMv3Config(
            visual_embed=False, coordinate_size=1, shape_size=2, **TINY, **SIZED
        ),
        "xlm": transformers.XLMConfig(vocab_size=20, emb_dim=8, n_layers=2, n_heads=2, max_position_embeddings=16),
        "ctrl": transformers.CTRLConfig(vocab_size=20, n_positions=16, n_embd=8, dff=8, n_layer=2, n_head=2),
        "bert": transformers.BertConfig(**TINY, **SIZED),
        "gpt2": transformers.GPT2Config(vocab_size=20, n_embd=8, n_head=2, n_layer=2, n_positions=16),
        "mamba": transformers.MambaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=2, state_size=2),
    }


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("kind", small_models())
def test_nothing_in_a_scope_from_a_layer_on_acts_before_it(kind: str, first: int) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(small_models()[kind]).eval()
    names = [name for name, _ in model.named_parameters()]
    block = next((block for name in names if (block := block_of(name)) and block.endswith(f".{first}")), None)
    if block is None:  # ALBERT's blocks are all its first, and no scope from the second on holds them
        assert kind == "albert"
        assert not any(Scope("layers>=1").holds(name) for name in names)
        return
    scope, read = Scope(f"all>={first}"), []

    def keep(_: torch.nn.Module, given: tuple[Any, ...], more: dict[str, Any]) -> None:
        read.extend(x for x in (*given, *more.values()) if isinstance(x, torch.Tensor) and x.is_floating_point())

    model.get_submodule(block).register_forward_pre_hook(keep, with_kwargs=True)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        for parameter in model.parameters():  # a table of zeros would hide that it is read
            parameter.add_(0.1 * torch.randn_like(parameter))
        model(input_ids=ids)
        before, read = [x.clone() for x in read], []
        moved = [name for name in names if scope.holds(name)]
        for name in moved:
            model.get_parameter(name).add_(torch.rand(()))
        model(input_ids=ids)
        assert before
        assert moved
        assert all(torch.equal(a, b) for a, b in zip(before, read, strict=True))
        # all that is left out matters there, or is a table of embeddings
        left_out = [name for name in names if not scope.holds(name)]
        for name in (name for name in left_out if kind_of(name) == "heads" and not name.endswith("bias")):
            read = []
            model.get_parameter(name).mul_(1.5)
            model(input_ids=ids)
            assert not all(torch.equal(a, b) for a, b in zip(before, read, strict=True)), name
            model.get_parameter(name).div_(1.5)


def test_what_every_block_reads_acts_in_the_first_and_what_comes_after_the_blocks_does_not() -> None:
    shared = (
        "mpnet.encoder.relative_attention_bias.weight",
        "layoutlmv3.encoder.rel_pos_x_bias.weight",
        "encoder.relative_bias.biases.0.relative_attention_bias.weight",  # UDOP's
        "position_bias.relative_attention_bias",  # CpmAnt's, no module's weight
    )
    for name in shared:
        assert [first for first in (0, 1, 11) if Scope(f"all>={first}").holds(name)] == [], name
        assert Scope("all").holds(name)
    of_first = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"  # T5's, in the first block
    assert [first for first in (0, 1) if Scope(f"all>={first}").holds(of_first)] == [0]
    convolution = "deberta.encoder.conv.conv.weight"  # which follows the first block
    assert [first for first in (0, 1, 2) if Scope(f"all>={first}").holds(convolution)] == [0]
    after = "transformer.layer_norm2.5.weight"  # XLM's, of block 5
    assert [first for first in (0, 5, 6) if Scope(f"all>={first}").holds(after)] == [0, 5]
    for name in ("mpnet.pooler.dense.weight", "model.norm.weight", "encoder.final_layer_norm.weight", "lm_head.bias"):
        assert Scope("all>=11").holds(name), name


@pytest.mark.parametrize("tie", [True, False])
def test_a_weight_of_two_names_acts_where_the_first_of_them_does(tie: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**TINY, **SIZED, tie_word_embeddings=tie)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    embedding = tensors["model.embed_tokens.weight"]
    save_file(
        {"lm_head.weight": embedding.clone(), **tensors}, file, metadata={"format": "pt"}
    )  # as some tools list both
    base = Checkpoint.open(tmp_path)
    assert "lm_head.weight" in Scope("all").names(base)  # stands for both where they are tied
    assert ("lm_head.weight" in Scope("all>=1").names(base)) is not tie
    assert "model.norm.weight" in Scope("all>=1").names(base)


def test_a_block_that_later_ones_repeat_acts_in_the_first_of_them(tmp_path: Path) -> None:
    """Zamba's shared block, whose name in block 10 sorts before that in block 2 and stands for both."""
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 20, "n_mamba_heads": 1}
    kinds = ["hybrid" if i in (2, 10) else "mamba" for i in range(11)]
    config = transformers.ZambaConfig(**sizes, num_hidden_layers=11, layers_block_type=kinds, mamba_d_state=4)
    model = transformers.ZambaForCausalLM(config)
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.config.architectures = ["ZambaForCausalLM"]
    model.config.save_pretrained(tmp_path)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    base = Checkpoint.open(tmp_path)
    shared = {name for name in base.parameters if ".10.shared_transf." in name}
    assert shared
    assert shared <= set(Scope("layers>=2").names(base))
    assert shared.isdisjoint(Scope("layers>=3").names(base))
    assert any(".layers.10." in name for name in Scope("layers>=3").names(base))


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
