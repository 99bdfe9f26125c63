"""The completion head where an answer is longer than the model reads or writes, or empty to its pattern."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from graft.errors import ConfigError, DataError
from graft.specs.head import HeadSpec
from graft.tasks import loading
from graft.tasks.examples import Example
from graft.tasks.heads.completion import CompletionHead
from tests.chat_models import answer_examples, answer_spec, completion_head


@pytest.fixture(scope="module")
def taught() -> CompletionHead:
    return completion_head(steps=120)  # after which about half of the answers are right


def over(head: CompletionHead, **block: Any) -> CompletionHead:
    """The same model under another head block."""
    return CompletionHead(head.model, head.tokenizer, answer_spec(HeadSpec("completion", **block)))


def test_a_pattern_that_matches_nothing_at_all_finds_no_answer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, taught: CompletionHead
) -> None:
    monkeypatch.setattr(loading, "_told", set())
    examples = answer_examples(40, seed=9)
    assert over(taught, answer="[a-z]*$").accuracy(examples) > 0  # the control: all of it is optional, and it matches
    capsys.readouterr()
    empty = over(taught, answer="[0-9]*")
    with pytest.raises(ConfigError, match=r"'\[0-9\]\*' finds no answer in any of 40 completions"):
        empty.accuracy(examples)
    columns = empty.predict_columns([*examples, Example(("add one", "1"), 0)])
    assert "finds no answer in 40 of 41 completions" in capsys.readouterr().err
    assert (columns.predicted != columns.label).all()
    assert columns.unanswered == 1


@pytest.mark.parametrize("answer", [None, "(?s).+"], ids=["whole", "pattern"])
def test_no_answer_is_written_that_is_longer_than_the_model_may_write(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, taught: CompletionHead, answer: str | None
) -> None:
    monkeypatch.setattr(loading, "_told", set())
    examples = answer_examples(40, seed=9)
    sizes = np.array([len(row.answer) for row in taught.inspect(examples)])
    free = over(taught, answer=answer, max_new_tokens=int(sizes.max())).predict_columns(examples)
    assert capsys.readouterr().err == ""
    right = free.predicted == free.label
    limit = int(np.median(sizes[right]))
    assert 0 < (sizes[right] <= limit).mean() < 1  # some that are right are longer, some are not
    head = over(taught, answer=answer, max_new_tokens=limit)
    columns = head.predict_columns(examples)
    assert f"{(sizes > limit).sum()} of 40 answers take more than max_new_tokens {limit}: " in capsys.readouterr().err
    # without its end the last word may still be there, which a pattern finds and the whole answer lacks
    allowed = sizes <= limit + (answer is not None)
    assert ((columns.predicted == columns.label) == (right & allowed)).all()
    assert head.accuracy(examples) == (right & allowed).mean()


def test_a_model_that_may_write_one_token_is_right_nowhere(taught: CompletionHead) -> None:
    examples = answer_examples(40, seed=9)
    assert min(len(row.answer) for row in taught.inspect(examples)) > 1
    assert taught.accuracy(examples) > 0
    assert over(taught, max_new_tokens=1).accuracy(examples) == 0
    columns = over(taught, max_new_tokens=1).predict_columns(examples)
    assert (columns.predicted != columns.label).all()
    assert columns.unanswered > taught.predict_columns(examples).unanswered


def test_answers_that_are_cut_are_counted_and_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, taught: CompletionHead
) -> None:
    monkeypatch.setattr(loading, "_told", set())
    examples = answer_examples(30, seed=9)
    right = taught.predict_columns(examples)
    assert capsys.readouterr().err == ""
    lengths = [len(row.ids) for row in taught._answers.encode(examples)]
    limit = max(np.array(lengths)[right.predicted == right.label]) - 1  # some that are right are cut
    head = CompletionHead(taught.model, taught.tokenizer, answer_spec(max_length=limit))
    n_cut = sum(length > limit for length in lengths)
    columns = head.predict_columns(examples)
    assert f"{n_cut} of 30 answers are cut by max_length {limit}" in capsys.readouterr().err
    cut = np.array(lengths) > limit
    assert (columns.predicted[cut] != columns.label[cut]).all()
    assert (columns.predicted[~cut] == right.predicted[~cut]).all()
    assert head.accuracy(examples) == (columns.predicted == columns.label).mean() < taught.accuracy(examples)


def test_prompts_as_long_as_the_limit_leave_nothing_to_learn() -> None:
    head = completion_head(answer_spec(max_length=8))
    long, short = Example(("a very long prompt", " one"), 0), Example(("a", " one"), 0)
    assert head.weigh([long]) == 0
    assert head.weigh([short]) > 0
    assert head.loss([long]).item() == 0
    torch.testing.assert_close(head.loss([long, short]), head.loss([short]))
    assert head.with_outputs([long, short]) == [short]
    assert len(head.predict_columns([long, short]).label) == 2
    with pytest.raises(DataError, match="no answer has a token within max_length 8"):
        head.inspect([long])
