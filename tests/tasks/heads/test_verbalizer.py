from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from graft.errors import CheckpointError, ConfigError, DataError
from graft.specs.head import HeadSpec
from graft.specs.runtime import Runtime
from graft.tasks.examples import Example
from graft.tasks.head import open_head
from graft.tasks.heads.verbalizer import VerbalizerHead
from tests.models import (
    MASKABLE,
    VERBALIZER,
    WORDS,
    inputs_of,
    toy_examples,
    toy_spec,
    word_tokenizer,
    write_bert,
    write_llama,
)

EXAMPLES = toy_examples(11)
WORD_IDS = [WORDS.index("bad"), WORDS.index("good")]


def opened(folder: Path, *, template: str = "{text} it was {mask}", **more: Any) -> VerbalizerHead:
    words = more.pop("words", ("bad", "good"))
    head = open_head(folder, toy_spec(head=HeadSpec("verbalizer", template=template, words=words), **more))
    assert isinstance(head, VerbalizerHead)
    return head


@torch.no_grad()
def test_masked_logits_are_the_words_at_the_mask(masked: Path) -> None:
    head = opened(masked, template="it was {mask} : {text}")
    for example, row in zip(EXAMPLES, head.logits(EXAMPLES), strict=True):
        batch = head.tokenizer(f"it was [MASK] : {example.texts[0]}", return_tensors="pt")
        expected = head.model(**batch).logits[0, 3, WORD_IDS]  # [CLS] it was [MASK]
        assert torch.allclose(row, expected, atol=1e-4)
    assert head.logits(EXAMPLES).std() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_causal_logits_are_the_words_after_the_prompt(side: str, causal: Path) -> None:
    head = opened(causal)
    head.tokenizer.padding_side = side
    logits = head.logits(EXAMPLES)
    for example, row in zip(EXAMPLES, logits, strict=True):
        ids = head.tokenizer(f"{example.texts[0]} it was", return_tensors="pt")["input_ids"][:, :-1]  # no [SEP]
        assert torch.allclose(row, head.model(ids).logits[0, -1, WORD_IDS], atol=1e-4)
    assert logits.std() > 0.1


def test_the_words_are_the_label_names_where_none_are_given(causal: Path) -> None:
    head = opened(causal, words=None, labels=("dull", "fine"))
    assert head.word_ids.tolist() == [WORDS.index("dull"), WORDS.index("fine")]


@torch.no_grad()
@pytest.mark.parametrize("family", ["masked", "causal"])
def test_a_long_text_is_cut_and_the_rest_of_the_template_never(family: str, request: pytest.FixtureRequest) -> None:
    head = opened(request.getfixturevalue(family), max_length=12)
    start = "good film plot"
    cut, same = (head.logits([Example((f"{start}{' the' * n} bad",), 1)]) for n in (30, 60))
    assert torch.equal(cut, same)  # what was beyond the cut is not seen
    assert not torch.allclose(cut, head.logits([Example((f"{start} bad",), 1)]), atol=1e-3)
    assert not torch.allclose(cut, head.logits([Example((f"bad{' the' * 30}",), 1)]), atol=1e-3)  # the start is seen
    with inputs_of(head.model) as batches:
        head.logits([Example(("the " * 60,), 1)])
    tokens = head.tokenizer.convert_ids_to_tokens(batches[0][0])
    assert len(tokens) == 12
    assert tokens[-4:] == (["it", "was", "[MASK]", "[SEP]"] if family == "masked" else ["the", "the", "it", "was"])


def test_a_template_that_leaves_no_place_for_the_text_is_refused(causal: Path) -> None:
    with pytest.raises(DataError, match=r"'the film': the prompt takes \d+ tokens .*, and max_length is 3"):
        opened(causal, max_length=3).logits([Example(("the film",), 0)])


@torch.no_grad()
def test_the_longer_text_of_a_pair_is_cut_first(masked: Path) -> None:
    template = "{text_a} and {text_b} was {mask}"
    head = opened(masked, template=template, text=("a", "b"), max_length=16)
    short = Example(("good film", "the plot " * 3), 1)
    long, more = (Example(("good film", "the plot " * n), 1) for n in (30, 60))
    assert torch.equal(head.logits([long]), head.logits([more]))
    assert not torch.allclose(head.logits([long]), head.logits([short]), atol=1e-4)
    changed = Example(("bad film", "the plot " * 30), 1)
    assert not torch.allclose(head.logits([long]), head.logits([changed]), atol=1e-4)  # the short one is whole


@torch.no_grad()
@pytest.mark.parametrize(("template", "place"), [("{text} it was {mask}", 5), ("it was {mask} {text}", 3)])
def test_a_text_may_spell_the_mask_token_or_a_place_of_the_template(template: str, place: int, masked: Path) -> None:
    head = opened(masked, template=template)
    mask = MASKABLE.index("[MASK]")
    with inputs_of(head.model) as batches:
        logits = head.logits([Example(("the [MASK]",), 1)])
        head.logits([Example(("the {mask} {text}",), 1)])
    spelled, escaped = batches
    assert (int(spelled[0, place]), int((spelled == mask).sum())) == (mask, 2)
    assert torch.allclose(logits[0], head.model(spelled).logits[0, place, head.word_ids], atol=1e-5)  # it is read there
    assert int((escaped == mask).sum()) == 1


@pytest.mark.parametrize("family", ["masked", "causal"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("bad good", "fine"), r"head.words: 'bad good' is not one token in the template, but 2: bad good"),
        (("good", "good"), r"head.words: 'good' and 'good' are the same token"),
        (("good", "xylophone"), r"head.words: 'xylophone' is not in the tokenizer's vocabulary"),
        (("", "good"), r"head.words: '' is not one token in the template, but 0"),
    ],
)
def test_words_must_be_different_single_tokens(
    family: str, words: tuple[str, str], said: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(family)
    assert opened(folder).word_ids.tolist() == WORD_IDS
    with pytest.raises(ConfigError, match=said):
        opened(folder, words=words)


def test_a_word_takes_its_space_with_it_where_the_tokenizer_wants_one(tmp_path: Path) -> None:
    words = ["<unk>", "▁x", "▁it", "▁was", "▁good", "good", "▁bad", "bad"]
    tokens = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Metaspace()
    folder = write_llama(tmp_path / "llama")
    PreTrainedTokenizerFast(tokenizer_object=tokens, unk_token="<unk>", pad_token="<unk>").save_pretrained(folder)
    assert opened(folder).word_ids.tolist() == [words.index("▁bad"), words.index("▁good")]


@torch.no_grad()
def test_what_all_words_begin_with_is_read_before_the_choice_among_them(causal: Path) -> None:
    """As where a space is a token of its own: p(good | ... very) against p(bad | ... very)."""
    head, longer = opened(causal, words=("very bad", "very good")), opened(causal, template="{text} it was very {mask}")
    assert head.word_ids.tolist() == WORD_IDS
    assert torch.equal(head.logits(EXAMPLES), longer.logits(EXAMPLES))
    assert not torch.equal(head.logits(EXAMPLES), opened(causal).logits(EXAMPLES))
    with pytest.raises(ConfigError, match=r"'very bad' is not one token in the template, but 2"):
        opened(causal, words=("very bad", "good"))


def test_what_is_no_language_model_or_no_template_for_it_is_refused(masked: Path, causal: Path, tmp_path: Path) -> None:
    assert opened(masked, template="it was {mask} {text}").has_classes
    with pytest.raises(ConfigError, match=r"must end with \{mask\} under a causal"):
        opened(causal, template="it was {mask} {text}")
    with pytest.raises(CheckpointError, match=r"needs a masked or causal language model"):
        opened(write_bert(tmp_path / "bert"))
    word_tokenizer(pad_token="[PAD]").save_pretrained(tmp_path / "plain")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "plain" / name).write_bytes((masked / name).read_bytes())
    with pytest.raises(CheckpointError, match=r"has no mask token"):
        opened(tmp_path / "plain")


def test_low_precision_gives_fp32_logits_and_gradients_reach_the_tied_embedding(causal: Path) -> None:
    head = open_head(causal, toy_spec(head=HeadSpec(**VERBALIZER)), runtime=Runtime(dtype="bfloat16"))  # type: ignore[arg-type]
    assert head.predict(EXAMPLES).dtype == torch.float32
    head.loss(EXAMPLES).backward()
    assert head.model.lm_head.weight is head.model.model.embed_tokens.weight
    assert head.model.lm_head.weight.grad[WORD_IDS].abs().sum() > 0
