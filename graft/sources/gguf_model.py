"""Config and weights of a Llama model in a GGUF file, dequantized to bf16.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. What is written depends on the file alone, not on
the version of transformers, whose own reader keeps weights packed in some versions and loses a tokenizer's steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from graft.files.tensor_spec import TensorSpec
from graft.tensors.tensor_stream import Planned

_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class GgufFile:
    """A GGUF file, mapped from disk.

    Attributes:
        metadata: key -> plain value.
        tensors: tensor name -> gguf's own record of it.
    """

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        reader = GGUFReader(path)
        self.metadata: dict[str, Any] = {key: field.contents() for key, field in reader.fields.items()}
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}

    def of_llama(self, key: str) -> Any:
        """Return the value of a key of the architecture, such as "block_count"."""
        return self.metadata[f"llama.{key}"]


def compose_config(file: GgufFile) -> dict[str, Any]:
    """Return config.json of the model, as transformers writes it for a Llama."""
    heads, width = file.of_llama("attention.head_count"), file.of_llama("embedding_length")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": len(file.metadata["tokenizer.ggml.tokens"]),
        "hidden_size": width,
        "head_dim": width // heads,
        "intermediate_size": file.of_llama("feed_forward_length"),
        "num_hidden_layers": file.of_llama("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.of_llama("attention.head_count_kv"),
        "hidden_act": "silu",
        "max_position_embeddings": file.of_llama("context_length"),
        "rms_norm_eps": _shortest(file.of_llama("attention.layer_norm_rms_epsilon")),
        "rope_parameters": {"rope_type": "default", "rope_theta": _shortest(file.of_llama("rope.freq_base"))},
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **special_ids(file.metadata),
    }


def special_ids(metadata: Mapping[str, Any]) -> dict[str, int]:
    """Return the ids of the tokens that begin, end and pad a text, as configs name them."""
    names = {"bos_token_id": "bos_token_id", "eos_token_id": "eos_token_id", "pad_token_id": "padding_token_id"}
    return {ours: metadata[f"tokenizer.ggml.{theirs}"] for ours, theirs in names.items()}


def _shortest(value: float) -> float:
    """Return the number of fewest digits that is this one in fp32, in which the file holds it: 1e-05."""
    return float(str(torch.tensor(value, dtype=torch.float32).numpy()))


def plan_weights(file: GgufFile) -> dict[str, Planned]:
    """Map the names that transformers gives the weights to what makes them, one at a time, in bf16."""
    return {
        _name_of(name): Planned(
            TensorSpec("BF16", tuple(int(n) for n in reversed(tensor.shape))), partial(_read, file, name)
        )
        for name, tensor in file.tensors.items()
    }


def _name_of(name: str) -> str:
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{_IN_BLOCK[parts[2]]}.{parts[3]}"
    return f"{_OUTSIDE[parts[0]]}.{parts[1]}"


def _read(file: GgufFile, name: str) -> torch.Tensor:
    from gguf.quants import dequantize

    tensor = file.tensors[name]
    values = torch.tensor(dequantize(tensor.data, tensor.tensor_type)).bfloat16()
    for part, heads in (("attn_q", "attention.head_count"), ("attn_k", "attention.head_count_kv")):
        if f".{part}." in name:
            values = split_rotations(values, file.of_llama(heads))
    return values


def split_rotations(rows: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Order the rows of a query or key matrix as transformers has them.

    A rotary embedding turns pairs of rows: GGUF lists the two of a pair beside each other, transformers all first
    ones of a head and then all second ones.

    Args:
        rows: (n_heads * head width, inputs).
        n_heads: of queries or of keys.
    """
    pairs = rows.reshape(n_heads, -1, 2, rows.shape[-1])
    return pairs.transpose(1, 2).reshape(rows.shape).contiguous()
