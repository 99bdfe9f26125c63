from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

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
