"""Tensors of many architectures find their place at the residual stream."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from graft.explain.explanation import explain_mask
from graft.explain.residual import find_width, place_tensor
from graft.files.tensor_spec import TensorSpec
from graft.patch.mask import Mask
from graft.tensors.architecture import architecture_of
from graft.tensors.transposed import is_conv1d

WIDTH = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
BERT = "encoder.layer.0."
LLAMA = "model.layers.0."


def on_meta(model: str, **config: Any) -> torch.nn.Module:
    kind = getattr(transformers, model)
    with torch.device("meta"):
        made: torch.nn.Module = kind(kind.config_class(**config))
    return made


def roles(model: torch.nn.Module, *, told: bool = True) -> dict[str, str]:
    conv1d = {
        f"{path}.weight": is_conv1d(module) for path, module in model.named_modules() if hasattr(module, "weight")
    }
    parameters = dict(model.named_parameters())
    assert architecture_of(model).state  # it is a model of transformers
    return {
        name: place_tensor(name, tuple(tensor.shape), 32, conv1d if told else {}).role
        for name, tensor in parameters.items()
    }


@pytest.mark.parametrize("told", [True, False])
def test_bert(told: bool) -> None:
    found = roles(on_meta("BertModel", **WIDTH), told=told)
    assert {found[f"{BERT}attention.self.{x}.weight"] for x in ("query", "key", "value")} == {"reads"}
    assert found[f"{BERT}attention.output.dense.weight"] == found[f"{BERT}output.dense.weight"] == "writes"
    assert found[f"{BERT}output.dense.bias"] == "writes"
    assert found[f"{BERT}intermediate.dense.weight"] == "reads"
    assert found[f"{BERT}attention.self.query.bias"] == found[f"{BERT}intermediate.dense.bias"] == "within"
    assert found[f"{BERT}output.LayerNorm.weight"] == "scales"
    assert found["embeddings.word_embeddings.weight"] == "embeds"
    assert found["pooler.dense.weight"] == "reads"
    assert "unknown" not in {role for name, role in found.items() if "pooler" not in name}


@pytest.mark.parametrize("told", [True, False])
def test_llama_and_its_grouped_queries(told: bool) -> None:
    found = roles(on_meta("LlamaForCausalLM", num_key_value_heads=1, vocab_size=64, **WIDTH), told=told)
    readers = {name for name, role in found.items() if role == "reads"}
    own = {f"{LLAMA}self_attn.{x}_proj.weight" for x in "qkv"} | {f"{LLAMA}mlp.{x}_proj.weight" for x in ("gate", "up")}
    assert readers == own | {"lm_head.weight"}
    assert {name for name, role in found.items() if role == "writes"} == {
        f"{LLAMA}self_attn.o_proj.weight",
        f"{LLAMA}mlp.down_proj.weight",
    }
    assert "unknown" not in found.values()


def test_conv1d_is_stored_the_other_way_round() -> None:
    model = on_meta("GPT2LMHeadModel", n_embd=32, n_layer=1, n_head=2, n_inner=64)
    found = roles(model)
    block = "transformer.h.0."
    assert {found[f"{block}{x}.weight"] for x in ("attn.c_attn", "mlp.c_fc")} == {"reads"}
    assert {found[f"{block}{x}.weight"] for x in ("attn.c_proj", "mlp.c_proj")} == {"writes"}
    assert found[f"{block}attn.c_proj.bias"] == "writes"
    shape = tuple(model.get_parameter(f"{block}mlp.c_fc.weight").shape)
    assert place_tensor(f"{block}mlp.c_fc.weight", shape, 32, {}).transposed  # by its shape and name


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("ModernBertModel", {}),
        ("DistilBertModel", {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}),
        ("GPTNeoXModel", {}),
        ("T5EncoderModel", {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}),
        ("Qwen3Model", {"head_dim": 16, "num_key_value_heads": 1}),
        ("MixtralModel", {"num_local_experts": 2, "num_key_value_heads": 1}),
    ],
)
def test_others(model: str, more: dict[str, Any]) -> None:
    known = WIDTH if model not in ("DistilBertModel", "T5EncoderModel") else {}
    found = roles(on_meta(model, **known, **more))
    assert sum(role == "reads" for role in found.values()) >= 2
    assert sum(role == "writes" for role in found.values()) >= 2
    assert not {name for name, role in found.items() if role == "unknown" and ".weight" in name and "bias" not in name}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("transformer.h.0.attn.c_proj.weight", (32, 32)),
        ("transformer.h.0.crossattention.q_attn.weight", (32, 32)),
        ("transformer.h.0.mlp.c_mixed.weight", (32, 64)),  # its name tells no side
        ("transformer.h.0.mlp.c_fc.weight", (64, 128)),  # nor does a width that is another
        ("model.layers.0.mlp.experts.down_proj", (4, 32, 32)),
    ],
)
def test_which_side_is_the_input_is_not_guessed(name: str, shape: tuple[int, ...]) -> None:
    place = place_tensor(name, shape, 32, {})
    assert (place.kind, place.role) == ("other", "unknown")
    assert "only the base's modules tell" in place.why


def test_a_layer_of_another_name_is_never_read_the_other_way_round() -> None:
    keys = place_tensor(f"{LLAMA}self_attn.k_proj.weight", (16, 64), 16, {})  # a width guessed too small
    assert not keys.transposed


def test_packed_experts_have_three_axes() -> None:
    assert place_tensor("layers.0.mlp.experts.gate_up_proj", (4, 128, 32), 32, {}).role == "reads"
    assert place_tensor("layers.0.mlp.experts.down_proj", (4, 32, 64), 32, {}).role == "writes"
    other_way = place_tensor("layers.0.mlp.experts.gate_up_proj", (4, 32, 128), 32, {})
    assert (other_way.role, other_way.transposed) == ("reads", True)


def test_what_cannot_be_placed_says_why() -> None:
    assert place_tensor("patch.projection.weight", (32, 3, 4, 4), 32, {}).why == "4 axes, so no matrix"
    square = place_tensor("layers.0.mystery.weight", (32, 32), 32, {})
    assert (square.role, square.why) == ("unknown", "square, and its name tells no layer that is known")
    assert place_tensor("layers.0.self_attn.q_norm.weight", (32,), 32, {}).role == "within"
    for name in ("backbone.norm_f.weight", "transformer.ln_f.weight", "model.norm.weight", "encoder.norm1.weight"):
        assert place_tensor(name, (32,), 32, {}).role == "scales", name
    assert place_tensor("embeddings.word_embeddings.weight", (99, 8), 32, {}).role == "unknown"


def numbered(*shapes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Matrices whose names tell nothing."""
    return {f"layers.{i}.mystery.weight": shape for i, shape in enumerate(shapes)}


def test_the_width_without_a_config() -> None:
    assert find_width(None, numbered((64, 32), (32, 64), (32,), (32, 32))) == 32
    assert find_width(None, numbered((64, 32))) == 32  # inner layers are wider
    assert find_width(None, {}) == 0
    assert find_width(None, {"layers.0.mlp.experts.up": (2, 64, 32)}) == 32  # two experts


def test_a_known_name_votes_for_the_axis_that_meets_the_stream() -> None:
    keys = {f"{LLAMA}self_attn.{x}_proj.weight": (32, 64) for x in "kv"}
    assert find_width(None, keys) == 64  # grouped queries: by shape alone the smaller would be taken
    assert find_width(None, {f"{LLAMA}self_attn.o_proj.weight": (32, 64)}) == 32
    assert find_width(None, {"model.embed_tokens.weight": (8, 64)}) == 64
    assert find_width(None, {f"{BERT}output.dense.bias": (32,), f"{BERT}intermediate.dense.bias": (16,)}) == 32
    assert (
        find_width(None, keys | numbered((32, 16), (32, 16), (32, 16))) == 64
    )  # and counts before those that tell none
    assert find_width(None, keys | {"classifier.out_proj.weight": (2, 64)}) == 64  # a head's output is no stream


@pytest.mark.parametrize("model", ["BertModel", "DistilBertModel", "LlamaForCausalLM", "GPT2LMHeadModel"])
def test_each_part_of_a_model_alone_has_a_place_that_the_base_agrees_with(model: str) -> None:
    config = {
        "DistilBertModel": {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64},
        "GPT2LMHeadModel": {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_inner": 64},
        "LlamaForCausalLM": WIDTH | {"num_key_value_heads": 1, "vocab_size": 64},
    }
    module = on_meta(model, **config.get(model, WIDTH))  # type: ignore[arg-type]
    told = roles(module)
    for name, tensor in module.named_parameters():
        shape = tuple(tensor.shape)
        alone = place_tensor(name, shape, find_width(None, {name: shape}), {}, guessed=True).role
        if tensor.ndim == 2 and "c_" not in name:
            assert alone == told[name], name
        assert {alone, told[name]} != {"reads", "writes"}, name


def test_a_name_and_a_shape_that_disagree_about_a_guessed_width_place_nothing() -> None:
    name = f"{LLAMA}self_attn.k_proj.weight"
    assert place_tensor(name, (32, 64), 64, {}, guessed=True).role == "reads"
    for width, side in ((32, "writes to it"), (16, "lies beside it")):
        place = place_tensor(name, (32, 64), width, {}, guessed=True)
        assert (place.role, place.why) == ("unknown", f"reads the stream by its name, and {side} by its shape")
    assert place_tensor(name, (32, 64), 32, {}).role == "writes"  # a width that the base's config tells is true


def test_a_mask_of_grouped_keys_alone_is_told_to_read() -> None:
    spec = TensorSpec("F32", (32, 64))
    mask = Mask.of(*({f"{LLAMA}self_attn.{x}_proj.weight": value for x in "kv"} for value in (spec, range(7, 640, 64))))
    explanation = explain_mask(mask)
    assert ({tensor.place.role for tensor in explanation.tensors}, explanation.stream) == ({"reads"}, [7])
