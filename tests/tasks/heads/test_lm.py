from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from graft.errors import CheckpointError, ConfigError, DataError
from graft.specs.data import SplitSpec
from graft.specs.head import HeadSpec
from graft.tasks.examples import Example, make_examples
from graft.tasks.head import open_head
from graft.tasks.heads.lm import LanguageModelHead
from tests.models import inputs_of, toy_rows, toy_spec

EXAMPLES = [Example((row["text"],), 0) for row in toy_rows(9, 3)]


def opened(folder: Path, **more: Any) -> LanguageModelHead:
    head = open_head(folder, toy_spec(labels=(), head=HeadSpec("lm"), **more))
    assert isinstance(head, LanguageModelHead)
    return head


def log_p_of(head: LanguageModelHead, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Log probabilities (tokens - 1, vocabulary) of one whole text, and what came (tokens - 1,)."""
    ids = head.tokenizer(text, return_tensors="pt")["input_ids"]
    return head.model(ids).logits[0, :-1].log_softmax(-1), ids[0, 1:]


@torch.no_grad()
def test_every_token_but_the_first_is_predicted_from_those_before_it(causal: Path) -> None:
    head = opened(causal)
    found = head.predict_columns(EXAMPLES, batch_size=2)
    start = 0
    for position, example in enumerate(EXAMPLES):
        log_p, target = log_p_of(head, example.texts[0])
        rows = slice(start, start := start + len(target))
        p = log_p.exp().double()
        one_hot = torch.nn.functional.one_hot(target, log_p.shape[-1])
        assert found.label[rows].tolist() == target.tolist()
        assert found.predicted[rows].tolist() == log_p.argmax(-1).tolist()
        assert (found.group[rows] == position).all()
        np.testing.assert_allclose(found.confidence[rows], p.max(-1).values, atol=1e-5)
        np.testing.assert_allclose(found.log_likelihood[rows], log_p.gather(1, target[:, None])[:, 0], atol=1e-4)
        np.testing.assert_allclose(found.squared_error[rows], (p - one_hot).square().sum(-1), atol=1e-5)
    assert start == len(found.label)
    assert head.accuracy(EXAMPLES) == (found.predicted == found.label).mean() > 0.05


def test_the_loss_is_the_mean_over_texts_whatever_the_batches(causal: Path) -> None:
    head = opened(causal)
    with torch.no_grad():
        texts = [log_p_of(head, example.texts[0]) for example in EXAMPLES]
    alone = [-float(log_p.gather(1, target[:, None]).mean()) for log_p, target in texts]
    loss = head.loss(EXAMPLES)
    loss.backward()
    assert loss.item() == pytest.approx(np.mean(alone), abs=1e-4)
    assert np.std(alone) > 0.05
    batches = [head.loss(EXAMPLES[i : i + 3]).item() for i in (0, 3, 6)]
    assert loss.item() == pytest.approx(np.mean(batches), abs=1e-4)
    assert head.model.lm_head.weight.grad.norm() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("limit", [2, 3, 5, 8])
def test_a_long_text_is_read_in_pieces_that_predict_each_token_once(limit: int, causal: Path) -> None:
    head, whole = opened(causal, max_length=limit), opened(causal)
    with inputs_of(head.model) as batches:
        pieces = head.predict_columns(EXAMPLES)
    all_at_once = whole.predict_columns(EXAMPLES)
    assert np.array_equal(pieces.label, all_at_once.label)
    assert np.array_equal(pieces.group, all_at_once.group)
    assert max(ids.shape[1] for ids in batches) == limit
    first = all_at_once.group.searchsorted(range(len(EXAMPLES)))
    np.testing.assert_allclose(pieces.log_likelihood[first], all_at_once.log_likelihood[first], atol=1e-5)
    assert not np.allclose(pieces.log_likelihood, all_at_once.log_likelihood, atol=1e-2)  # context was lost


def test_predicting_leaves_the_mode(causal: Path) -> None:
    head = opened(causal)
    head.model.train()
    head.predict_columns(EXAMPLES)
    assert head.model.training
    assert all(not weight.is_inference() for weight in head.model.parameters())


def test_texts_need_no_label() -> None:
    rows = [{"text": "the film"}, {"text": "a film", "label": "anything"}]
    spec = toy_spec(labels=(), head=HeadSpec("lm"))
    assert [example.label for example in make_examples(rows, SplitSpec("a.jsonl"), spec)] == [0, 0]
    with pytest.raises(DataError, match=r"row 1: no column 'text'"):
        make_examples([{"body": "the film"}], SplitSpec("a.jsonl"), spec)


def test_what_has_no_labels_or_no_next_token_is_refused(causal: Path, masked: Path) -> None:
    head = opened(causal)
    assert not head.has_classes
    with pytest.raises(ConfigError, match=r"head.kind lm predicts the next token and has no labels"):
        head.predict(EXAMPLES)
    with pytest.raises(CheckpointError, match=r"needs a causal language model"):
        opened(masked)
    plain = Tokenizer(WordLevel({"film": 0, "[UNK]": 1}, unk_token="[UNK]"))  # nothing before or after the text
    head.tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[UNK]")
    with pytest.raises(DataError, match=r"no text has two tokens"):
        head.loss([Example(("film",), 0)])
