"""The completion head learns the tokens that TRL's SFTTrainer learns, and its loss is the trainer's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer
from trl.chat_template_utils import gemma_chat_template, llama3_chat_template

from graft.specs.data import SplitSpec
from graft.specs.head import HeadSpec
from graft.tasks.answers import AnswerEncoder
from graft.tasks.examples import Example, make_examples
from graft.tasks.heads.completion import CompletionHead
from tests.chat_models import CHATML, MARKED, answer_rows, answer_spec, byte_tokenizer, chat_rows, small_model

CHAT = HeadSpec("completion", chat=True)


def conversational(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    return [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["completion"]}],
        }
        for row in rows
    ]


def greeted_rows(n: int) -> list[dict[str, Any]]:
    """Chats that the assistant begins."""
    return [
        {"messages": [{"role": "assistant", "content": f"hello {i}"}, *row["messages"]]}
        for i, row in enumerate(chat_rows(2 * n)[::2])  # short ones, since a template may write much around a turn
    ]


def trainer_of(rows: list[dict[str, Any]], folder: Path, tokenizer: Any, **options: Any) -> SFTTrainer:
    config = SFTConfig(
        str(folder), report_to=[], use_cpu=True, bf16=False, disable_tqdm=True, dataset_num_proc=None, **options
    )
    return SFTTrainer(small_model(tokenizer), config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)


CASES: dict[str, tuple[Any, Any, Any, str, dict[str, Any]]] = {
    "plain": (answer_rows, lambda rows: rows, {}, CHATML, {}),
    "a boundary within a word": (
        lambda n: [row | {"completion": row["completion"].strip()} for row in answer_rows(n)],
        lambda rows: rows,
        {},
        CHATML,
        {},
    ),
    "a completion with its own end": (
        lambda n: [row | {"completion": row["completion"] + "<|im_end|>"} for row in answer_rows(n)],
        lambda rows: rows,
        {},
        CHATML,
        {},
    ),
    "plain, cut": (answer_rows, lambda rows: rows, {"max_length": 10}, CHATML, {"max_length": 10}),
    "prompts as a user's turn": (answer_rows, conversational, {"head": CHAT}, CHATML, {}),
    "prompts as a user's turn, marked": (answer_rows, conversational, {"head": CHAT}, MARKED, {}),
    "an answer that begins with a line": (
        lambda n: [row | {"completion": "\n" + row["completion"]} for row in answer_rows(n)],
        conversational,
        {"head": CHAT},
        CHATML,
        {},
    ),
    "messages, marked": (chat_rows, lambda rows: rows, {"messages": "messages"}, MARKED, {"assistant_only_loss": True}),
    "messages, marked, cut": (
        chat_rows,
        lambda rows: rows,
        {"messages": "messages", "max_length": 30},
        MARKED,
        {"assistant_only_loss": True, "max_length": 30},
    ),
    "messages that the assistant begins, marked": (
        greeted_rows,
        lambda rows: rows,
        {"messages": "messages"},
        MARKED,
        {"assistant_only_loss": True},
    ),
    "messages that the assistant begins, of Llama 3's template, which TRL marks itself": (
        greeted_rows,
        lambda rows: rows,
        {"messages": "messages"},
        llama3_chat_template,
        {"assistant_only_loss": True},
    ),
    **{
        f"messages, of {name}'s template, which TRL marks itself": (
            chat_rows,
            lambda rows: rows,
            {"messages": "messages"},
            template,
            {"assistant_only_loss": True},
        )
        for name, template in (("Gemma", gemma_chat_template), ("Llama 3", llama3_chat_template))
    },
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_tokens_are_learned_and_the_loss_is_equal(case: str, tmp_path: Path) -> None:
    make, convert, fields, template, options = CASES[case]
    rows = make(6)
    spec = answer_spec(**({"head": HeadSpec("completion")} | fields))
    tokenizer = byte_tokenizer(template)
    trainer = trainer_of(convert(rows), tmp_path, tokenizer, **options)
    theirs = [(row["input_ids"], [label != -100 for label in row["labels"]]) for row in trainer.train_dataset]
    examples = make_examples(rows, SplitSpec("rows"), spec)
    encoded = AnswerEncoder(byte_tokenizer(template), spec, spec.max_length).encode(examples)
    assert [(list(row.ids), list(row.learned)) for row in encoded] == theirs
    learned = [flag for _, flags in theirs for flag in flags]
    assert True in learned
    assert False in learned
    assert_equal_loss(trainer, spec, examples, tokenizer)


@pytest.mark.parametrize("make", [chat_rows, greeted_rows])
def test_a_template_without_marks_gives_the_tokens_that_one_with_marks_does(make: Any, tmp_path: Path) -> None:
    rows, spec = make(6), answer_spec(messages="messages")
    trainer = trainer_of(rows, tmp_path, byte_tokenizer(MARKED), assistant_only_loss=True)
    theirs = [(row["input_ids"], [label != -100 for label in row["labels"]]) for row in trainer.train_dataset]
    examples = make_examples(rows, SplitSpec("rows"), spec)
    encoded = AnswerEncoder(byte_tokenizer(CHATML), spec, spec.max_length).encode(examples)
    assert [(list(row.ids), list(row.learned)) for row in encoded] == theirs


def assert_equal_loss(trainer: SFTTrainer, spec: Any, examples: list[Example], tokenizer: Any) -> None:
    batch = trainer.data_collator([dict(row) for row in trainer.train_dataset])
    with torch.no_grad():
        theirs = trainer.model(**batch).loss
        ours = CompletionHead(trainer.model, byte_tokenizer(tokenizer.chat_template), spec).loss(examples)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
