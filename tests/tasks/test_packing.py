from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from graft.tasks.batches import pad_tokens
from graft.tasks.language_model import logits_of
from graft.tasks.packing import PACKABLE, can_pack, pack, pack_inputs
from graft.tasks.shared_prefix import read_prefix

WORDS = 40
TEXTS = [
    [[1, 2, 3, 4], [1, 2, 3, 5, 6, 7], [1, 2, 3, 4, 8]],  # the first is how the last begins
    [[9, 10, 11], [9, 12]],
    [[13, 14], [15, 16, 17]],  # nothing in common
    [[18, 19, 20, 21, 22, 23, 24]],
]
PREFIX = [30, 31, 32, 33, 34]
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def make_model(kind: str, **more: Any) -> Any:
    """A random model whose attention is far from even, so that a token which sees another's text shows it."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SIZES, "sliding_window": None, **more}))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.5)
    return model.eval()


def one_by_one(model: Any, prefix: Sequence[int] = ()) -> list[torch.Tensor]:
    n = len(prefix)
    return [model(torch.tensor([[*prefix, *text]])).logits[0, n:] for group in TEXTS for text in group]


def packed(model: Any, prefix: Sequence[int] = (), **changes: torch.Tensor) -> list[torch.Tensor]:
    n = len(prefix)
    rows = [pack([[*prefix, *text] for text in group]) for group in TEXTS]
    batch = pad_tokens([row.ids[n:] for row in rows], 0)
    width = batch["input_ids"].shape[1]
    batch |= pack_inputs(rows, width, n) | changes
    places = [
        torch.tensor([number * width + row.place(text, n + position) - n for position in range(len(ids))])
        for number, (row, group) in enumerate(zip(rows, TEXTS, strict=True))
        for text, ids in enumerate(group)
    ]
    cache = read_prefix(model, prefix, len(rows), torch.device("cpu")) if prefix else None
    return list(logits_of(model, batch, torch.cat(places), cache=cache).split(list(map(len, places))))


@torch.no_grad()
@pytest.mark.parametrize("kind", sorted(PACKABLE))
def test_packed_texts_have_the_logits_that_they_have_alone(kind: str) -> None:
    model = make_model(kind)
    assert can_pack(model)
    alone = one_by_one(model)
    after = one_by_one(model, PREFIX)  # of which the model keeps keys and values
    for expected, found in zip([*alone, *after], [*packed(model), *packed(model, PREFIX)], strict=True):
        assert torch.allclose(expected, found, atol=1e-4, rtol=1e-4)
    assert not any(torch.allclose(a, b, atol=1e-2) for a, b in zip(alone, after, strict=True))
    sees_all = torch.ones(4, 1, 9, 9, dtype=torch.bool).tril()  # without the mask, or the positions, it is another text
    for changes in ({"attention_mask": sees_all}, {"position_ids": torch.arange(9).expand(4, 9)}):
        others = packed(model, **changes)
        assert not all(torch.allclose(a, b, atol=1e-2) for a, b in zip(alone, others, strict=True))


def test_the_gradient_of_packed_texts_is_that_of_texts_alone() -> None:
    model = make_model("llama")
    gradients = []
    for logits in (one_by_one(model), packed(model)):
        model.zero_grad()
        torch.cat(logits).log_softmax(-1)[:, 0].sum().backward()
        gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    for name, expected in gradients[0].items():
        assert torch.allclose(expected, gradients[1][name], atol=1e-3 * float(expected.abs().max())), name


def test_a_model_that_could_see_otherwise_is_not_packed() -> None:
    assert can_pack(make_model("mistral"))
    assert not can_pack(make_model("mistral", sliding_window=4))
    assert not can_pack(make_model("llama", attn_implementation="eager"))
    assert not can_pack(make_model("bloom"))  # its place enters by the distance within the row
    layers = ["full_attention", "sliding_attention"]
    assert not can_pack(make_model("qwen2", layer_types=layers, sliding_window=4, use_sliding_window=True))


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=6), min_size=1, max_size=4))
def test_every_token_of_every_text_has_a_place_with_its_position(texts: list[list[int]]) -> None:
    row = pack(texts)
    assert len(row.ids) <= sum(map(len, texts))
    for text, ids in enumerate(texts):
        places = [row.place(text, position) for position in range(len(ids))]
        assert [row.ids[place] for place in places] == ids
        assert [row.positions[place] for place in places] == list(range(len(ids)))
        mask = pack_inputs([row], len(row.ids) + 2)["attention_mask"][0, 0]
        for position, place in enumerate(places):  # it sees its own text up to itself, and nothing else
            assert mask[place].nonzero().flatten().tolist() == sorted(places[: position + 1])
        assert mask.any(1).all()  # padding sees something: a softmax over nothing is no number
