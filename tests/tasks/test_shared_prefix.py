from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from graft.specs.head import HeadSpec
from graft.tasks.examples import Example
from graft.tasks.head import Head, open_head
from graft.tasks.heads import choice, verbalizer
from graft.tasks.packing import PACKABLE
from graft.tasks.placement import checkpoint_layers, recomputes
from graft.tasks.shared_prefix import after_prefix, read_prefix, shared_length
from tests.models import choice_rows, inputs_of, toy_examples, toy_spec
from tests.tasks.test_packing import make_model

SHOTS = "the film was all bad and it was bad this story is very good it was good "
PREFIX, RESTS = [3, 4, 5, 6, 7], [[8, 9, 10], [11], [12, 13]]
EXAMPLES = toy_examples(9)


def few_shot(folder: Path, template: str = SHOTS + "{text} it was {mask}") -> Head:
    head = HeadSpec("verbalizer", template=template, words=("bad", "good"))
    return open_head(folder, toy_spec(head=head, max_length=64))


@torch.no_grad()
@pytest.mark.parametrize("kind", sorted(PACKABLE))
def test_texts_go_on_from_a_common_beginning_as_if_each_had_read_it(kind: str) -> None:
    model = make_model(kind)
    whole = [[*PREFIX, *rest] for rest in RESTS]
    assert shared_length(model, whole) == 5
    ids = torch.tensor([[8, 9, 10], [11, 0, 0], [12, 13, 0]])
    batch = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    cache = read_prefix(model, PREFIX, 3, torch.device("cpu"))
    found = model(**after_prefix(batch, 5), past_key_values=cache).logits
    for row, text, rest in zip(found, whole, RESTS, strict=True):
        expected = model(torch.tensor([text])).logits[0, 5:]
        assert torch.allclose(row[: len(rest)], expected, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(model(torch.tensor([rest])).logits[0], expected, atol=1e-2)


def test_a_template_with_examples_is_read_once_and_trains_as_if_each_row_had_it(
    causal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = few_shot(causal)
    found: list[tuple[torch.Tensor, dict[str, Any]]] = []
    for is_shared in (True, False):
        if not is_shared:
            monkeypatch.setattr(verbalizer, "shared_length", lambda *_: 0)
        with inputs_of(head.model) as batches:
            logits = head.logits(EXAMPLES)
        assert [len(ids) for ids in batches] == ([1, 9] if is_shared else [9])
        head.model.zero_grad()
        logits.square().sum().backward()
        found.append((logits, {name: weight.grad.clone() for name, weight in head.model.named_parameters()}))
    (shared, gradients), (plain, others) = found
    assert torch.allclose(shared, plain, atol=1e-4)
    assert plain.std() > 0.1
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, others[name], atol=1e-4 * float(others[name].abs().max()) + 1e-5), name


@torch.no_grad()
def test_the_batch_makes_no_difference(causal: Path) -> None:
    head = few_shot(causal)
    alone = torch.cat([head.logits([example]) for example in EXAMPLES])
    assert torch.allclose(head.predict(EXAMPLES, batch_size=4), alone, atol=1e-4)
    same = [Example(("the film",), 0)] * 3  # the last token of a text is always its own
    assert torch.allclose(head.logits(same), head.logits(same[:1]).expand(3, -1), atol=1e-4)


@torch.no_grad()
def test_packed_choices_go_on_from_a_common_beginning_too(causal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = toy_spec(labels=(), choices="choices", head=HeadSpec("choice", template=SHOTS + "{text} it was {choice}"))
    head = open_head(causal, task)
    examples = [Example((row["text"],), row["label"], tuple(row["choices"])) for row in choice_rows(9, 5)]
    alone = [head.logits([example])[0] for example in examples]  # packed, nothing shared
    with inputs_of(head.model) as batches:
        together = head.logits(examples)
    assert [len(ids) for ids in batches] == [1, 9]
    monkeypatch.setattr(choice, "can_pack", lambda _: False)
    one_by_one = head.logits(examples)
    assert torch.allclose(together, one_by_one, atol=1e-4)
    assert all(torch.allclose(a, row[: len(a)], atol=1e-4) for a, row in zip(alone, together, strict=True))
    assert together[:, :2].std() > 0.1


def test_what_saves_little_or_could_be_wrong_is_read_row_by_row(causal: Path) -> None:
    texts = [[*PREFIX, *rest] for rest in RESTS]
    model = make_model("llama")
    assert shared_length(model, texts) == 5
    assert shared_length(model, [text[3:] for text in texts]) == 2
    assert shared_length(model, [[*PREFIX, *rest, *range(14, 34)] for rest in RESTS]) == 0
    assert shared_length(model, texts[:1]) == 0
    assert shared_length(make_model("bloom"), texts) == 0
    assert shared_length(make_model("mistral", sliding_window=4), texts) == 0
    assert not recomputes(model)
    checkpoint_layers(model)
    assert recomputes(model)
    assert shared_length(model, texts) == 0
