from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from graft.errors import ConfigError, DataError
from graft.specs.head import HeadSpec
from graft.tasks.examples import Example
from graft.tasks.head import Head, open_head
from tests.models import WORDS, inputs_of, toy_examples, toy_spec

# ChatML in the words that the toy tokenizer knows: [CLS] opens a turn, [SEP] ends it
TEMPLATE = (
    "{% for m in messages %}{{ '[CLS] ' + {'user': 'this', 'assistant': 'that', 'system': 'all'}[m.role] + ' ' "
    "+ m.content + ' [SEP] ' }}{% endfor %}{% if add_generation_prompt %}{{ '[CLS] that ' }}{% endif %}"
)
FILM = Example(("the film",), 1)


@pytest.fixture(scope="session")
def chatty(causal: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chatty") / "chatty"
    shutil.copytree(causal, folder)
    tokenizer = AutoTokenizer.from_pretrained(causal)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def verbalizer(folder: Path, words: tuple[str, ...] = ("bad", "good"), max_length: int = 128, **more: Any) -> Head:
    template = more.pop("template", "{text} it was {mask}")
    head = HeadSpec("verbalizer", template=template, words=words, **{"chat": True} | more)
    return open_head(folder, toy_spec(head=head, max_length=max_length))


def chooser(folder: Path, **more: Any) -> Head:
    head = HeadSpec("choice", template="{text} it was {choice}", **{"chat": True} | more)
    return open_head(folder, toy_spec(labels=(), choices="choices", head=head))


def read(head: Head, examples: list[Example]) -> list[str]:
    with inputs_of(head.model) as batches:
        head.logits(examples)
    return [" ".join(head.tokenizer.convert_ids_to_tokens(row)) for row in batches[0]]


@torch.no_grad()
def test_the_prompt_is_the_users_turn_and_the_word_begins_the_assistants(chatty: Path) -> None:
    head = verbalizer(chatty)
    assert read(head, [FILM]) == ["[CLS] this the film it was [SEP] [CLS] that"]
    assert read(verbalizer(chatty, chat=None), [FILM]) == ["[CLS] the film it was"]
    logits = head.logits([FILM])
    ids = [WORDS.index(word) for word in read(head, [FILM])[0].split()]
    expected = head.model(torch.tensor([ids])).logits[0, -1, [WORDS.index("bad"), WORDS.index("good")]]
    assert torch.allclose(logits[0], expected, atol=1e-5)
    examples = toy_examples(9)
    assert torch.allclose(head.predict(examples, batch_size=2), head.predict(examples), atol=1e-4)


@torch.no_grad()
def test_a_system_turn_comes_first_and_what_all_words_begin_with_follows_the_opening(chatty: Path) -> None:
    head = verbalizer(chatty, ("very bad", "very good"), system="one")
    assert read(head, [FILM]) == ["[CLS] all one [SEP] [CLS] this the film it was [SEP] [CLS] that very"]


@torch.no_grad()
def test_choices_begin_the_assistants_turn(chatty: Path) -> None:
    head = chooser(chatty, normalize="none")
    example = Example(("the film",), 0, ("good", "very bad"))
    prompt = "[CLS] this the film it was [SEP] [CLS] that"
    assert read(head, [example]) == [f"{prompt} good very bad"]  # packed
    for choice, score in zip(example.choices, head.logits([example])[0], strict=True):
        ids = torch.tensor([[WORDS.index(word) for word in f"{prompt} {choice}".split()]])
        log_p = head.model(ids).logits[0].log_softmax(-1)
        expected = sum(log_p[i - 1, ids[0, i]] for i in range(len(prompt.split()), ids.shape[1]))
        assert score == pytest.approx(float(expected), abs=1e-4)


@torch.no_grad()
def test_a_long_text_is_cut_and_the_turns_never(chatty: Path) -> None:
    head = verbalizer(chatty, max_length=12)
    cut, same = (Example((f"good film{' the' * n}",), 1) for n in (30, 60))
    assert read(head, [cut]) == ["[CLS] this good film the the the it was [SEP] [CLS] that"]
    assert torch.equal(head.logits([cut]), head.logits([same]))
    with pytest.raises(DataError, match=r"the prompt takes 8 tokens without its text, and max_length is 6"):
        verbalizer(chatty, max_length=6).logits([cut])


def test_what_cannot_be_a_chat_is_refused(chatty: Path, causal: Path, masked: Path) -> None:
    assert verbalizer(chatty)
    for opened in (verbalizer, chooser):
        with pytest.raises(ConfigError, match=r"tokenizer has no chat template"):
            opened(causal)
    with pytest.raises(ConfigError, match=r"head.chat needs a causal language model"):
        verbalizer(masked)
    with pytest.raises(ConfigError, match=r"'bad good' is not one token"):
        verbalizer(chatty, ("bad good", "fine"))
    with pytest.raises(ValueError, match=r"must end with \{mask\}: in a chat it begins the assistant's turn"):
        toy_spec(head=HeadSpec("verbalizer", template="{mask} is {text}", chat=True))
    with pytest.raises(ValueError, match=r"head.system is a turn of a chat"):
        toy_spec(head=HeadSpec("verbalizer", template="{text} {mask}", system="one"))
    with pytest.raises(ValueError, match=r"chat goes with kind verbalizer and choice and completion"):
        HeadSpec("similarity", chat=True)
