"""A tiny gpt-oss: its experts are packed, (experts, in, out), and so are their biases, (experts, out)."""

from __future__ import annotations

from typing import Any

from transformers import GptOssConfig, GptOssForCausalLM

EXPERTS, WIDTH, INNER = 3, 8, 6
GATE_UP = "model.layers.0.mlp.experts.gate_up_proj"
DOWN = "model.layers.0.mlp.experts.down_proj"
ROUTER = "model.layers.0.mlp.router.weight"
SIZES: dict[str, Any] = {
    "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": 1, "num_attention_heads": 2,
    "vocab_size": 16, "num_key_value_heads": 1, "head_dim": 4, "num_local_experts": EXPERTS, "pad_token_id": 0,
}  # fmt: skip


def tiny_gpt_oss() -> GptOssForCausalLM:
    return GptOssForCausalLM(GptOssConfig(layer_types=["full_attention"], **SIZES))
