"""What a model writes after a text is what it writes after the text alone, whatever else is in the batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from graft.tasks import generation
from graft.tasks.batches import reads_left_padding
from graft.tasks.generation import write_on
from graft.tasks.heads.completion import CompletionHead
from tests.chat_models import answer_examples, answer_spec, byte_tokenizer

WIDTH = 32
KEPT: dict[str, Any] = {"vocab_size": 320, "pad_token_id": 3, "bos_token_id": 1, "eos_token_id": 2}
SIZES: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, **KEPT}
DECODER: dict[str, Any] = {"hidden_size": WIDTH, "num_key_value_heads": 2, "max_position_embeddings": 128, **SIZES}
BERT: dict[str, Any] = {"hidden_size": WIDTH, "is_decoder": True, "max_position_embeddings": 128, **SIZES}
SHAPES: dict[str, Any] = {f"decoder_{key}": n for key, n in {"layers": 2, "attention_heads": 2, "ffn_dim": 64}.items()}
BART: dict[str, Any] = {"d_model": WIDTH, "max_position_embeddings": 128, **SHAPES, **KEPT}
GPT2: dict[str, Any] = {"n_embd": WIDTH, "n_layer": 2, "n_head": 2, "n_positions": 128, **KEPT}
MAMBA: dict[str, Any] = {"hidden_size": WIDTH, "num_hidden_layers": 2, "state_size": 4, **KEPT}
HEADS: dict[str, Any] = {"num_heads": 4, "head_dim": 16, "n_groups": 1, "expand": 2}
LINEAR = {f"linear_{key}": n for key, n in {"num_key_heads": 2, "num_value_heads": 2, "key_head_dim": 16,
                                            "value_head_dim": 16}.items()}  # fmt: skip
HYBRID: dict[str, Any] = {**DECODER, **LINEAR, "head_dim": 16, "layer_types": ["linear_attention", "full_attention"]}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
                           "shared_expert_intermediate_size": 32}  # fmt: skip
JAMBA = {**DECODER, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "num_experts": 2,
         "mamba_d_state": 4, "use_mamba_kernels": False}  # fmt: skip
GRIFFIN = {**DECODER, "num_hidden_layers": 3, "lru_width": WIDTH, "attention_window_size": 64, "head_dim": 16}
CLASSES: dict[str, dict[str, Any]] = {
    "GPT2LMHeadModel": GPT2,
    "LlamaForCausalLM": DECODER,
    "OPTForCausalLM": {**BERT, "ffn_dim": 64, "word_embed_proj_dim": WIDTH},
    "BertLMHeadModel": BERT,
    "RobertaForCausalLM": {**BERT, "max_position_embeddings": 132},
    "BloomForCausalLM": {"hidden_size": WIDTH, "n_layer": 2, "n_head": 2, **KEPT},
    "MptForCausalLM": {"d_model": WIDTH, "n_layers": 2, "n_heads": 2, "max_seq_len": 128, **KEPT},
    "MambaForCausalLM": MAMBA,
    "Mamba2ForCausalLM": {**MAMBA, **HEADS},
    "FalconMambaForCausalLM": MAMBA,
    "Qwen3NextForCausalLM": {**HYBRID, **EXPERTS},
    "Qwen3_5ForCausalLM": HYBRID,
    "Qwen3_5MoeForCausalLM": {**HYBRID, **EXPERTS},
    "OlmoHybridForCausalLM": HYBRID,
    "JambaForCausalLM": JAMBA,
    "BartForCausalLM": BART,
    "MarianForCausalLM": BART,
    "PegasusForCausalLM": BART,
    "MBartForCausalLM": BART,
    "RoFormerForCausalLM": BERT,
    "RwkvForCausalLM": {"hidden_size": WIDTH, "attention_hidden_size": WIDTH, "num_hidden_layers": 2, **KEPT},
    "RecurrentGemmaForCausalLM": GRIFFIN,
}
ALONE = {"BartForCausalLM", "MarianForCausalLM", "PegasusForCausalLM", "MBartForCausalLM", "RoFormerForCausalLM",
         "RwkvForCausalLM", "RecurrentGemmaForCausalLM"}  # whose rows are not padded  # fmt: skip


def head_over(name: str) -> CompletionHead:
    """A head over a tiny model of a class, with weights by which positions and padding would tell."""
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    model = kind(kind.config_class(**CLASSES[name])).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.3)
    return CompletionHead(model, byte_tokenizer(), answer_spec())


def contexts() -> list[list[int]]:
    """Tokens of many lengths, none of them special."""
    draws = torch.Generator().manual_seed(3)
    return [torch.randint(4, 300, (n,), generator=draws).tolist() for n in (3, 17, 5, 5, 9, 30, 4)]


@torch.no_grad()
def write_alone(head: CompletionHead, context: list[int], ends: set[int], most: int) -> list[int]:
    """The most probable token after whole texts, one by one, without a cache, padding or company."""
    written: list[int] = []
    while len(written) < most and not ends & set(written):
        ids = torch.tensor([[*context, *written]])
        written.append(int(head.model(input_ids=ids, use_cache=False).logits[0, -1].argmax()))
    return written


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_written_is_what_is_written_alone(name: str) -> None:
    head = head_over(name)
    wanted = [write_alone(head, context, set(), 6) for context in contexts()]
    assert len({tuple(text) for text in wanted}) > 2  # texts tell
    ends = {wanted[1][2]}
    cut = [text[: next((i + 1 for i, token in enumerate(text) if token in ends), 6)] for text in wanted]
    for size in (1, 3, 64):
        with head.evaluating():
            assert write_on(head, contexts(), ends, 6, batch_size=size, label="") == cut, size
    assert reads_left_padding(head.model) == (name not in ALONE)


@pytest.mark.parametrize("name", ["BartForCausalLM", "RwkvForCausalLM", "BloomForCausalLM", "RobertaForCausalLM"])
def test_no_number_depends_on_the_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head, examples = head_over(name), answer_examples(9, seed=4)
    tables = [head.predict_columns(examples, batch_size=size) for size in (1, 4, 64)]
    for table in tables[1:]:
        np.testing.assert_allclose(np.log(table.confidence), np.log(tables[0].confidence), rtol=1e-4)
        np.testing.assert_allclose(table.log_likelihood, tables[0].log_likelihood, rtol=1e-4)
        assert table.predicted.tolist() == tables[0].predicted.tolist()
    # the control: what a model that reads padding would have given
    monkeypatch.setattr(generation, "reads_left_padding", lambda model: True)
    padded = head.predict_columns(examples, batch_size=64)
    is_alike = np.allclose(np.log(padded.confidence), np.log(tables[0].confidence), rtol=1e-4)
    assert is_alike == reads_left_padding(head.model)
