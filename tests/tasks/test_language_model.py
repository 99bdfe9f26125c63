from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, BartConfig, BartForConditionalGeneration

from graft.errors import CheckpointError
from graft.tasks.language_model import logits_of

BATCH = {
    "input_ids": torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]]),
    "attention_mask": torch.tensor([[1] * 4, [1, 1, 0, 0]]),
}
TOKENS = torch.tensor([5, 0, 3, 3])


def load(family: str, request: pytest.FixtureRequest) -> Any:
    kind = AutoModelForMaskedLM if family == "masked" else AutoModelForCausalLM
    folder: Path = request.getfixturevalue(family)
    return kind.from_pretrained(folder).eval()


@pytest.mark.parametrize("family", ["masked", "causal"])
@pytest.mark.parametrize("hidden", [False, True])
def test_logits_are_the_models_at_these_tokens_and_the_output_layer_computes_no_others(
    family: str, hidden: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(family, request)
    expected = model(**BATCH).logits.flatten(0, 1)[TOKENS]
    seen: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda _, __, out: seen.append(out.shape[:-1].numel()))
    if hidden:  # a model that does not say which layer it is
        monkeypatch.setattr(type(model), "get_output_embeddings", lambda _: None)
    found = logits_of(model, BATCH, TOKENS)
    assert seen == [8 if hidden else 4]
    assert torch.allclose(found, expected, atol=1e-5)
    assert expected.std() > 0.1
    found.sum().backward()
    mine = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    expected.sum().backward()
    for name, gradient in mine.items():
        assert torch.allclose(gradient, dict(model.named_parameters())[name].grad, atol=1e-4), name


@torch.no_grad()
def test_the_model_is_left_as_it_was(causal: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(causal).eval()
    before = model(**BATCH).logits
    logits_of(model, BATCH, TOKENS)
    assert torch.equal(model(**BATCH).logits, before)
    with pytest.raises(CheckpointError):
        logits_of(model, BATCH, torch.tensor([8]))  # there are 8 tokens
    assert torch.equal(model(**BATCH).logits, before)


@torch.no_grad()
@pytest.mark.parametrize("family", ["masked", "causal"])
def test_words_of_a_narrow_model_are_told_apart_where_its_own_logits_tie(
    family: str, request: pytest.FixtureRequest
) -> None:
    words, model = torch.arange(5, 25), load(family, request).bfloat16()
    own = model(**BATCH).logits.flatten(0, 1)[TOKENS][:, words].float()
    found = logits_of(model, BATCH, TOKENS, words=words)
    assert found.dtype == torch.float32
    assert (found - own).abs().max() <= own.abs().max() / 128  # a bfloat16 has 8 bits
    assert len(own.unique()) < len(found.unique()) == found[:3].numel()  # two tokens are the same


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_word_of_each_token_is_summed_up_in_fp32_and_no_other(causal: Path, dtype: torch.dtype) -> None:
    model = AutoModelForCausalLM.from_pretrained(causal, dtype=dtype).eval()
    own = torch.arange(5, 5 + len(TOKENS))
    narrow, found = logits_of(model, BATCH, TOKENS), logits_of(model, BATCH, TOKENS, own=own)
    words = logits_of(model, BATCH, TOKENS, words=own).diagonal()
    is_own = torch.nn.functional.one_hot(own, narrow.shape[1]).bool()
    assert torch.equal(found[~is_own], narrow.float()[~is_own])  # whatever other tokens ask for
    assert torch.allclose(found[is_own], words, rtol=1e-5, atol=1e-6)
    assert torch.equal(found[is_own], narrow[is_own]) == (dtype == torch.float32)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bias_that_a_model_adds_to_its_logits_is_in_those_of_words(dtype: torch.dtype) -> None:
    sizes = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in (("layers", 1), ("ffn_dim", 32))}
    heads: dict[str, Any] = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    config = BartConfig(vocab_size=40, d_model=16, max_position_embeddings=16, init_std=0.5, **sizes, **heads)
    model = BartForConditionalGeneration(config).eval().to(dtype)
    words = torch.tensor([7, 5])
    without = logits_of(model, BATCH, TOKENS, words=words).float()
    model.final_logits_bias[0, words] = torch.tensor([4.0, -4.0], dtype=dtype)
    own = model(**BATCH).logits.flatten(0, 1)[TOKENS][:, words].float()
    found = logits_of(model, BATCH, TOKENS, words=words).float()
    assert torch.allclose(found, own, atol=0.1)
    assert torch.allclose(found - without, torch.tensor([4.0, -4.0]), atol=0.1)


@torch.no_grad()
def test_words_of_a_wide_model_are_its_own_logits_and_under_autocast_those_of_the_rounded_weights(causal: Path) -> None:
    words, model = torch.tensor([7, 5]), AutoModelForCausalLM.from_pretrained(causal).eval()
    assert torch.equal(logits_of(model, BATCH, TOKENS, words=words), logits_of(model, BATCH, TOKENS)[:, words])
    with torch.autocast("cpu", torch.bfloat16):
        found = logits_of(model, BATCH, TOKENS, words=words)
    layer = model.get_output_embeddings()
    states: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0].float()))
    with torch.autocast("cpu", torch.bfloat16):
        logits_of(model, BATCH, TOKENS)
    hook.remove()
    expected = states[0].flatten(0, 1)[TOKENS] @ layer.weight[words].bfloat16().float().T
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_word_that_the_model_does_not_predict_is_refused(causal: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = AutoModelForCausalLM.from_pretrained(causal, dtype=dtype).eval()
        with pytest.raises(CheckpointError, match="another model's"):
            logits_of(model, BATCH, TOKENS, words=torch.tensor([10**6]))
