"""Fifteen architectures as transformers makes them today, tiny, and their files as they were once laid out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
VOCABULARY = 64
IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
DECODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    **IDS,
}
ENCODER = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 66,
    "pad_token_id": 0,
}


@dataclass(frozen=True)
class Kind:
    """One architecture: its class, a tiny config, the head that reads it, and how its files once looked."""

    name: str
    config: dict[str, Any]
    head: str | None = "lm"
    once: Callable[[Tensors], Tensors] = dict

    def build(self, seed: int) -> Any:
        """The model with random weights by the seed."""
        torch.manual_seed(seed)
        kind = getattr(transformers, self.name)
        model = kind(kind.config_class(**self.config)).eval()
        with torch.no_grad():
            for parameter in model.parameters():  # what starts at 0 or 1 would hide a wrong place
                parameter.add_(0.02 * torch.randn(parameter.shape))
        return model

    def rewrite(self, folder: Path) -> None:
        """Lay out a folder's file as it once was."""
        file = folder / "model.safetensors"
        save_file(self.once(load_file(file)), file, metadata={"format": "pt"})


def roberta_once(tensors: Tensors) -> Tensors:
    """With positions as a buffer."""
    return tensors | {"roberta.embeddings.position_ids": torch.arange(66).view(1, -1)}


def gpt2_once(tensors: Tensors) -> Tensors:
    """Without the prefix, and with the causal masks that were buffers."""
    mask = torch.ones(32, 32).tril().view(1, 1, 32, 32)
    masks = {f"h.{i}.attn.{name}": value.clone() for i in range(2) for name, value in
             (("bias", mask), ("masked_bias", torch.tensor(-1e4)))}  # fmt: skip
    return {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()} | masks


def neox_once(tensors: Tensors) -> Tensors:
    buffers = {"attention.bias": torch.ones(32, 32).tril().bool().view(1, 1, 32, 32),
               "attention.masked_bias": torch.tensor(-1e9), "attention.rotary_emb.inv_freq": torch.rand(4)}  # fmt: skip
    return tensors | {f"gpt_neox.layers.{i}.{name}": v.clone() for i in range(2) for name, v in buffers.items()}


def llama_once(tensors: Tensors) -> Tensors:
    """With rotary tables, and a layer past the last that predicts further tokens."""
    tables = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.rand(4) for i in range(2)}
    return tensors | tables | {"model.layers.2.self_attn.q_proj.weight": torch.randn(16, 16)}


def bert_once(tensors: Tensors) -> Tensors:
    """LayerNorms by their first names, positions as a buffer, and the head that pretraining had besides."""
    named = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
             for name, tensor in tensors.items()}  # fmt: skip
    extra = {
        "bert.embeddings.position_ids": torch.arange(66).view(1, -1),
        "cls.seq_relationship.weight": torch.ones(2, 16),
        "bert.pooler.dense.weight": torch.ones(16, 16),
    }
    return named | extra


def packed(tensors: Tensors) -> Tensors:
    """Experts as the model holds them."""
    result = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    for layer in range(2):
        place = f"model.layers.{layer}.block_sparse_moe.experts"
        halves = [torch.stack([tensors[f"{place}.{e}.{w}.weight"] for e in range(4)]) for w in ("w1", "w3", "w2")]
        packed_place = f"model.layers.{layer}.mlp.experts"
        result[f"{packed_place}.gate_up_proj"] = torch.cat(halves[:2], 1).contiguous()
        result[f"{packed_place}.down_proj"] = halves[2].contiguous()
    return result


T5_STRAY = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
GPT2 = {"vocab_size": VOCABULARY, "n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, **IDS}
MAMBA = {"vocab_size": VOCABULARY, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 2, **IDS}
T5 = {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 8, "num_layers": 2, "num_heads": 2, "d_ff": 32}
BART = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
    **IDS,
}
MODERN = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3, "global_attn_every_n_layers": 1}
VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 8,
    "patch_size": 4,
    "num_labels": 3,
}
KINDS = (
    Kind("GPT2LMHeadModel", GPT2, once=gpt2_once),
    Kind("GPTNeoXForCausalLM", DECODER, once=neox_once),
    Kind("LlamaForCausalLM", DECODER, once=llama_once),
    Kind("Qwen2ForCausalLM", DECODER | {"tie_word_embeddings": True}),
    Kind("GemmaForCausalLM", DECODER | {"head_dim": 8}),
    Kind("PhiForCausalLM", DECODER),
    Kind("MixtralForCausalLM", DECODER | {"num_local_experts": 4}, once=packed),
    Kind("MambaForCausalLM", MAMBA),
    Kind("T5ForConditionalGeneration", T5, "similarity", lambda tensors: tensors | {T5_STRAY: torch.randn(32, 2)}),
    Kind("BartForConditionalGeneration", BART, "similarity"),
    Kind("BertForMaskedLM", ENCODER, "similarity", bert_once),
    Kind("RobertaForMaskedLM", ENCODER | {"pad_token_id": 1}, "similarity", roberta_once),
    Kind("ModernBertModel", ENCODER | MODERN, "similarity"),
    Kind("AlbertModel", ENCODER | {"embedding_size": 8}, "similarity"),
    Kind("ViTForImageClassification", VIT, None),
)
