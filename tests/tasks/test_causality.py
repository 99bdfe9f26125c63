"""A language model that sees later tokens knows the answer that it is asked for: it is refused where it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from graft.errors import CheckpointError
from graft.specs.head import HeadSpec
from graft.tasks.causality import refuse_two_way
from graft.tasks.head import open_head
from tests.chat_models import byte_tokenizer
from tests.models import toy_spec
from tests.tasks.test_generation import BERT, CLASSES, DECODER, WIDTH

BOTH_WAYS: dict[str, Any] = {**BERT, "is_decoder": False}
XLNET = {"vocab_size": 320, "d_model": WIDTH, "n_layer": 2, "n_head": 2, "d_inner": 64}
XLM = {"n_words": 320, "emb_dim": WIDTH, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 128, "pad_index": 3}
CPM = {"vocab_size": 320, "hidden_size": WIDTH, "num_attention_heads": 2, "dim_head": 16, "dim_ff": 64,
       "num_hidden_layers": 2}  # fmt: skip
TWO_WAY: dict[str, dict[str, Any]] = {
    "XLNetLMHeadModel": XLNET,
    "XLMWithLMHeadModel": XLM,
    "CpmAntForCausalLM": CPM,
    "BertLMHeadModel": BOTH_WAYS,
    "RobertaForCausalLM": {**BOTH_WAYS, "max_position_embeddings": 132},
    "ElectraForCausalLM": BOTH_WAYS,
    "RemBertForCausalLM": BOTH_WAYS,
}
MIXTRAL = {**DECODER, "num_local_experts": 4, "num_experts_per_tok": 2}
ONE_WAY = {**CLASSES, "MixtralForCausalLM": MIXTRAL, "ElectraForCausalLM": BERT}


def build(name: str, config: dict[str, Any], spread: float = 0.3) -> Any:
    """A tiny model of a class, its weights by which a token tells in the others' states."""
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    model = kind(kind.config_class(**config)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, spread)
    return model


@torch.no_grad()
def sees_later_tokens(model: Any) -> bool:
    ids = torch.tensor([[5, 20, 9, 30], [5, 20, 9, 31]])
    logits = model(input_ids=ids).logits
    return not torch.allclose(logits[0, :-1], logits[1, :-1], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", TWO_WAY)
def test_a_model_that_sees_later_tokens_is_refused(name: str, dtype: torch.dtype) -> None:
    # as transformers draws new weights, in which a token hardly tells, and as trained ones are
    for spread in (0.02, 0.3) if dtype == torch.float32 else (0.3,):
        model = build(name, TWO_WAY[name], spread).to(dtype)
        if dtype == torch.float32:
            assert sees_later_tokens(model)
        with pytest.raises(CheckpointError, match=f"{name} sees the tokens after the one at which it predicts"):
            refuse_two_way(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ONE_WAY)
def test_a_model_that_does_not_is_not(name: str, dtype: torch.dtype) -> None:
    model = build(name, ONE_WAY[name]).to(dtype)
    if dtype == torch.float32:
        assert not sees_later_tokens(model)
    refuse_two_way(model)


@pytest.mark.parametrize("head", ["lm", "choice", "verbalizer", "completion"])
@pytest.mark.parametrize("is_decoder", [True, False])
def test_every_head_refuses_it_where_it_is_loaded(head: Any, is_decoder: bool, tmp_path: Path) -> None:
    build("BertLMHeadModel", {**BERT, "is_decoder": is_decoder}).save_pretrained(tmp_path / "m")
    byte_tokenizer().save_pretrained(tmp_path / "m")
    keys: dict[str, Any] = {
        "lm": {"labels": (), "head": HeadSpec("lm")},
        "choice": {"labels": (), "choices": "choices", "head": HeadSpec("choice")},
        "verbalizer": {"head": HeadSpec("verbalizer", template="{text} it was {mask}", words=("b", "g"))},
        "completion": {"labels": (), "prompt": "p", "completion": "c", "head": HeadSpec("completion")},
    }
    spec = toy_spec(max_length=32, **keys[head])
    if is_decoder:
        open_head(tmp_path / "m", spec)
        return
    with pytest.raises(CheckpointError, match="no causal language model"):
        open_head(tmp_path / "m", spec)
