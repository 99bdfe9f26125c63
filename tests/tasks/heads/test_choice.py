from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import CheckpointError, DataError
from graft.specs.data import SplitSpec
from graft.specs.head import HeadSpec
from graft.specs.runtime import Runtime
from graft.tasks.examples import Example, draw_shots, make_examples
from graft.tasks.head import open_head
from graft.tasks.heads.choice import ChoiceHead
from graft.tasks.heads.similarity import SimilarityHead
from graft.tasks.padded_logits import are_finite, pad_rows
from tests.models import WORDS, choice_rows, toy_spec

EXAMPLES = [Example((row["text"],), row["label"], tuple(row["choices"])) for row in choice_rows(12, 5)]
UNLIKE = [  # choices of several lengths
    Example(("the film was",), 0, ("good", "very bad", "all good and fine")),
    Example(("one scene is",), 1, ("dull", "great music")),
]


def opened(folder: Path, kind: str = "choice", **more: Any) -> Any:
    fields = {key: more.pop(key) for key in ("template", "normalize") if key in more}
    head, runtime = HeadSpec(kind, **fields), Runtime(dtype=more.pop("dtype", "auto"))  # type: ignore[arg-type]
    return open_head(folder, toy_spec(labels=(), choices="choices", head=head, **more), runtime)


def by_hand(head: ChoiceHead, text: str, choice: str) -> tuple[float, int]:
    """Sum of log probabilities of a choice's tokens, one forward per choice, and how many."""
    ids = head.tokenizer(f"{text} {choice}", return_tensors="pt")["input_ids"][:, :-1]  # no [SEP]
    n = len(choice.split())
    log_p = head.model(ids).logits[0].log_softmax(-1)
    return sum(float(log_p[i - 1, ids[0, i]]) for i in range(ids.shape[1] - n, ids.shape[1])), n


@torch.no_grad()
@pytest.mark.parametrize("normalize", ["none", "tokens", "bytes", None])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_choice_scores_the_log_likelihood_of_its_tokens_after_the_text(
    normalize: str | None, side: str, causal: Path
) -> None:
    head = opened(causal, normalize=normalize)
    head.tokenizer.padding_side = side
    logits = head.logits(UNLIKE)
    for example, row in zip(UNLIKE, logits, strict=True):
        for choice, score in zip(example.choices, row, strict=False):
            total, n = by_hand(head, example.texts[0], choice)
            unit = {"none": 1, "bytes": len(choice)}.get(normalize or "", n)
            assert score == pytest.approx(total / unit, abs=1e-4)
    assert logits[1, 2] == -math.inf
    assert logits[:, :2].std() > 0.1


@torch.no_grad()
def test_the_order_of_choices_does_not_decide_in_a_narrow_model(causal: Path) -> None:
    head = opened(causal, dtype="bfloat16")
    head.model.model.norm.weight.mul_(30)  # so that logits are as large as a trained model's, and many words tie
    words = tuple(WORDS[5:29])
    asked = [Example(example.texts, 0, words) for example in EXAMPLES]
    logits = head.predict(asked)
    other = head.predict([Example(example.texts, 0, words[::-1]) for example in asked]).flip(1)
    assert torch.equal(logits.argmax(1), other.argmax(1))
    assert all(row.unique().numel() == len(words) for row in logits)  # no word ties with another


@torch.no_grad()
def test_similarity_of_a_rows_own_choices_is_twenty_times_the_cosine(tuned: Path) -> None:
    head = opened(tuned, "similarity", template="it is {}")
    assert isinstance(head, SimilarityHead)
    logits = head.logits(EXAMPLES)
    for example, row in zip(EXAMPLES, logits, strict=True):
        text = head.embed([example.texts])
        for i, choice in enumerate(example.choices):
            assert row[i] == pytest.approx(20 * float(text @ head.embed([(f"it is {choice}",)]).T), abs=1e-3)
        assert (row[len(example.choices) :] == -math.inf).all()
    assert len({len(example.choices) for example in EXAMPLES}) > 1
    assert torch.allclose(head.predict(EXAMPLES, batch_size=3), logits, atol=1e-4)


@pytest.mark.parametrize("kind", ["choice", "similarity"])
def test_rows_of_unlike_width_have_the_loss_of_their_own_choices_and_finite_gradients(
    kind: str, causal: Path, tuned: Path
) -> None:
    head = opened(causal if kind == "choice" else tuned, kind)
    alone = torch.stack([head.loss([example]) for example in EXAMPLES])
    loss = head.loss(EXAMPLES)
    assert loss.item() == pytest.approx(alone.mean().item(), abs=1e-4)
    loss.backward()
    gradients = [weight.grad for weight in head.model.parameters() if weight.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert sum(float(gradient.norm()) for gradient in gradients) > 1e-3
    assert not head.has_classes


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_padding_is_probability_zero_and_no_gradient(sizes: list[int]) -> None:
    values = torch.randn(sum(sizes), generator=torch.Generator().manual_seed(0)).requires_grad_()
    rows = pad_rows(values, sizes)
    parts = values.detach().split(sizes)
    for row, part in zip(rows.softmax(-1), parts, strict=True):
        assert torch.allclose(row[: len(part)], part.softmax(-1))
        assert (row[len(part) :] == 0).all()
    torch.nn.functional.cross_entropy(rows, torch.zeros(len(sizes), dtype=torch.int64)).backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()


def test_only_the_padding_may_be_infinite() -> None:
    examples = [Example(("x",), 0, ("a", "b")), Example(("x",), 0, ("a", "b", "c"))]
    logits = torch.tensor([[0.0, 1.0, -math.inf], [0.0, 1.0, 2.0]])
    assert are_finite(logits, examples)
    for place in ((0, 1), (1, 2)):
        for value in (math.nan, -math.inf):
            bad = logits.clone()
            bad[place] = value
            assert not are_finite(bad, examples)


@torch.no_grad()
def test_a_long_text_is_cut_alike_for_all_choices_and_a_choice_never(causal: Path) -> None:
    head = opened(causal, max_length=10)
    cut, same = (head.logits([Example((f"good film{' the' * n}",), 0, UNLIKE[0].choices)]) for n in (30, 60))
    assert torch.equal(cut, same)
    other = head.logits([Example((f"bad film{' the' * 30}",), 0, UNLIKE[0].choices)])
    assert not torch.allclose(cut, other, atol=1e-3)
    with pytest.raises(DataError, match=r"max_length is 10"):
        head.logits([Example(("good film",), 0, ("good", "the " * 12))])


@torch.no_grad()
def test_pairs_fill_both_places(causal: Path) -> None:
    head = opened(causal, template="{text_b} and {text_a} was {choice}", text=("a", "b"))
    logits = head.logits([Example(("the film", "the soup"), 0, ("good", "bad"))])
    assert logits[0, 1] == pytest.approx(by_hand(head, "the soup and the film was", "bad")[0], abs=1e-4)


def test_a_masked_model_has_no_likelihood_of_a_choice(masked: Path, causal: Path) -> None:
    assert opened(causal).predict(EXAMPLES).shape == (12, 4)
    with pytest.raises(CheckpointError, match=r"needs a causal language model"):
        opened(masked)


def read(rows: list[dict[str, Any]], **task: Any) -> list[Example]:
    spec = toy_spec(**{"labels": (), "choices": "options", "head": HeadSpec("choice"), **task})
    return make_examples(rows, SplitSpec("a.jsonl"), spec)


def row_of(label: Any, options: Any = ("a", "b", "c")) -> dict[str, Any]:
    return {"text": "x", "options": list(options) if isinstance(options, tuple) else options, "label": label}


def test_the_label_is_the_place_of_the_right_choice() -> None:
    assert [example.label for example in read([row_of(2), row_of("0"), row_of(-1)])] == [2, 0, -1]
    named = read([row_of("C"), row_of("A"), row_of(1)], labels=("A", "B", "C", "D"))
    assert [example.label for example in named] == [2, 0, 1]
    numbered = read([row_of("1"), row_of("3")], labels=("1", "2", "3"))  # an answer key that counts from one
    assert [example.label for example in numbered] == [0, 2]
    elsewhere = SplitSpec("b.jsonl", choices="answers", label="key")
    spec = toy_spec(labels=(), choices="options", head=HeadSpec("choice"))
    assert make_examples([{"text": "x", "answers": ["a", "b"], "key": 1}], elsewhere, spec) == [
        Example(("x",), 1, ("a", "b"))
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (row_of(3), r"a.jsonl, row 2: label 3 is not the place of one of its 3 choices"),
        (row_of(-2), r"label -2 is not the place"),
        (row_of(1.0), r"label 1.0 is not the place"),
        (row_of(True), r"label True is not the place"),
        (row_of("D"), r"label 'D' is not the place"),
        (row_of(0, ("a",)), r"row 2: 'options' is not a list of two or more texts"),
        (row_of(0, "abc"), r"'options' is not a list"),
        (row_of(0, ("a", " ")), r"'options' is not a list"),
        (row_of(0, ("a", None)), r"'options' is not a list"),
        ({"text": "x", "label": 0}, r"row 2: no column 'options'; it has text, label"),
        ({"text": "x", "options": ["a", "b"]}, r"row 2: no column 'label'"),
    ],
)
def test_what_is_wrong_in_a_row_of_choices_is_named(row: dict[str, Any], said: str) -> None:
    assert read([row_of(0)])
    with pytest.raises(DataError, match=said):
        read([row_of(0), row])


def test_shots_of_rows_without_classes_are_counted_in_all() -> None:
    drawn = draw_shots(EXAMPLES, 5, (), 0, strict=True)
    assert len(set(drawn)) == 5
    assert drawn == draw_shots(EXAMPLES, 5, (), 0, strict=True) != draw_shots(EXAMPLES, 5, (), 1, strict=True)
    assert len(draw_shots(EXAMPLES, 50, (), 0, strict=False)) == 12
    with pytest.raises(DataError, match=r"50 shots were asked for, but there are 12 examples"):
        draw_shots(EXAMPLES, 50, (), 0, strict=True)
