"""Answers that a pattern finds: in what a model writes as in the row, both read off their tokens."""

from __future__ import annotations

import pytest

from graft.errors import ConfigError
from graft.specs.head import HeadSpec
from graft.tasks.examples import Example
from graft.tasks.heads.completion import CompletionHead
from tests.chat_models import answer_spec, completion_head


def head_with(pattern: str) -> CompletionHead:
    return completion_head(answer_spec(HeadSpec("completion", answer=pattern, template="{prompt} {completion}")))


@pytest.mark.parametrize("answer", ["two", "two <|im_start|> three"])
def test_a_model_that_writes_the_rows_own_tokens_is_right(answer: str) -> None:
    head = head_with("(?s)^(.*)$")
    (row,) = head.inspect([Example(("add one", answer), 0)])
    expected, written = head._comparison.compare(row, row.answer)
    assert expected == written > 0


def test_a_pattern_without_room_for_the_templates_space_is_refused() -> None:
    with pytest.raises(ConfigError, match="finds no answer in any of 1 completions: the first is ' two'"):
        head_with(r"^(\w+)").accuracy([Example(("add one", "two"), 0)])
