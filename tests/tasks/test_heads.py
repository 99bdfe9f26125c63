from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch

from graft.errors import CheckpointError, ConfigError
from graft.specs.head import HeadSpec
from graft.specs.runtime import Runtime
from graft.tasks.examples import Example
from graft.tasks.head import Head, open_head
from graft.tasks.heads.similarity import SimilarityHead
from graft.tasks.task import Task
from tests.models import TEXTS, toy_examples, toy_spec, word_tokenizer, write_bert, write_llama

EXAMPLES = toy_examples(23)
CLASSIFIER = HeadSpec("classifier")


@pytest.fixture
def head(tuned: Path, task: Task) -> Head:
    return open_head(tuned, task.spec)


@torch.no_grad()
def test_similarity_is_twenty_times_the_cosine_of_mean_token_vectors(head: SimilarityHead) -> None:
    def embed(text: str) -> torch.Tensor:
        tokens = head.tokenizer(text, return_tensors="pt")
        mean = head.model(**tokens).last_hidden_state[0].mean(0)
        return mean / math.sqrt(float(mean @ mean))

    expected = [[20 * float(embed(example.texts[0]) @ embed(text)) for text in TEXTS] for example in EXAMPLES]
    assert torch.allclose(head.logits(EXAMPLES), torch.tensor(expected), atol=1e-4)
    assert head.logits(EXAMPLES).std() > 1  # not all the same


@torch.no_grad()
def test_padding_does_not_change_an_embedding(head: SimilarityHead) -> None:
    alone = head.embed([("good film",)])[0]
    padded = head.embed([("good film",), (" ".join(["the"] * 25),)])[0]
    assert torch.allclose(alone, padded, atol=1e-5)
    assert not torch.allclose(alone, head.embed([("good film the",)])[0], atol=1e-3)


def test_the_template_holds_the_label_texts(base: Path) -> None:
    spec = toy_spec(head=HeadSpec(template="it is {} and {}"))
    assert open_head(base, spec).label_texts == [("it is sad and sad",), ("it is glad and glad",)]


@torch.no_grad()
def test_label_texts_of_a_pair_are_made_of_its_second_text(tuned: Path) -> None:
    pairs = [Example((a.texts[0], b.texts[0]), a.label) for a, b in itertools.pairwise(EXAMPLES)]
    pairs.append(Example(("good film {}", "the {text_b} film"), 1))  # braces of a row mean nothing
    texts = ("the {text_b}", "{text_b} film and {text_b}")
    head = open_head(tuned, toy_spec(text=("a", "b"), head=HeadSpec(texts=texts)))
    assert isinstance(head, SimilarityHead)
    first = head.embed([pair.texts[:1] for pair in pairs])
    made = [
        head.embed([(f"the {pair.texts[1]}",) for pair in pairs]),
        head.embed([(f"{pair.texts[1]} film and {pair.texts[1]}",) for pair in pairs]),
    ]
    expected = torch.stack([20 * (first * second).sum(1) for second in made], dim=1)
    assert torch.allclose(head.logits(pairs), expected, atol=1e-4)
    assert torch.allclose(head.predict(pairs, batch_size=5), expected, atol=1e-4)
    assert expected.std() > 0.1


def test_label_texts_with_a_second_text_need_a_pair() -> None:
    with pytest.raises(ValueError, match="need a pair"):
        toy_spec(head=HeadSpec(texts=("the {text_b}", "{text_b}")))


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_predictions_are_the_logits_in_the_order_given(head: Head, batch_size: int) -> None:
    order = torch.randperm(23, generator=torch.Generator().manual_seed(0)).tolist()
    with torch.no_grad():
        expected = head.logits(EXAMPLES)
    assert torch.allclose(head.predict(EXAMPLES, batch_size=batch_size), expected, atol=1e-5)
    shuffled = head.predict([EXAMPLES[i] for i in order], batch_size=batch_size)
    assert torch.allclose(shuffled, expected[order], atol=1e-5)


def test_predicting_leaves_the_mode_and_nothing_cached(head: Head) -> None:
    head.model.train()
    before = head.predict(EXAMPLES)
    assert head.model.training
    assert torch.equal(head.predict(EXAMPLES), before)  # evaluation mode: no dropout
    with torch.no_grad():
        next(head.model.parameters()).mul_(1.5)
    assert not torch.allclose(head.predict(EXAMPLES), before, atol=1e-2)


@pytest.mark.parametrize("cut", ["texts", "labels", None])
def test_gradients_reach_the_model_through_both_sides(head: SimilarityHead, cut: str | None) -> None:
    texts, labels = head.embed([example.texts for example in EXAMPLES]), head.embed(head.label_texts)
    logits = 20 * (texts.detach() if cut == "texts" else texts) @ (labels.detach() if cut == "labels" else labels).T
    target = torch.tensor([example.label for example in EXAMPLES])
    torch.nn.functional.cross_entropy(logits, target).backward()
    found = [p.grad.clone() for p in head.model.parameters() if p.grad is not None]
    assert sum(float(grad.norm()) for grad in found) > 1e-2
    head.model.zero_grad()
    head.loss(EXAMPLES).backward()
    whole = [p.grad for p in head.model.parameters() if p.grad is not None]
    close = all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, whole, strict=True))
    assert close is (cut is None)  # either side by itself is not the whole gradient


def test_the_texts_of_a_pair_are_two_segments(tuned: Path) -> None:
    head = open_head(tuned, toy_spec(head=CLASSIFIER, text=("a", "b")))
    batch = head.tokenize([("good film", "bad"), ("bad", "soup")])
    tokens = [head.tokenizer.convert_ids_to_tokens(row) for row in batch["input_ids"]]
    assert tokens[0] == ["[CLS]", "good", "film", "[SEP]", "bad", "[SEP]"]
    assert tokens[1] == ["[CLS]", "bad", "[SEP]", "soup", "[SEP]", "[PAD]"]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0]]


def test_long_texts_are_cut(base: Path) -> None:
    short, long = (open_head(base, toy_spec(max_length=n)) for n in (4, 1000))
    examples = [Example(("the film " + "good " * n,), 1) for n in (0, 200)]
    assert torch.allclose(short.predict(examples)[0], short.predict(examples)[1])
    assert not torch.allclose(long.predict(examples)[0], long.predict(examples)[1])


def test_a_new_classifier_is_drawn_by_the_seed_and_survives_saving(base: Path, tmp_path: Path) -> None:
    spec = toy_spec(head=CLASSIFIER)
    heads = [open_head(base, spec, seed=seed) for seed in (0, 0, 1)]
    first, again, other = (head.predict(EXAMPLES) for head in heads)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)
    heads[2].model.save_pretrained(tmp_path / "saved")
    heads[2].tokenizer.save_pretrained(tmp_path / "saved")
    assert torch.equal(open_head(tmp_path / "saved", spec, seed=0).predict(EXAMPLES), other)
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["id2label"] == {"0": "sad", "1": "glad"}


@pytest.mark.parametrize("kind", ["similarity", "classifier"])
def test_a_decoder_without_padding_token_reads_alone_and_in_a_batch_alike(kind: str, tmp_path: Path) -> None:
    spec = toy_spec(head=HeadSpec(kind))  # type: ignore[arg-type]
    head = open_head(write_llama(tmp_path / "llama"), spec)
    alone = torch.cat([head.predict([example]) for example in EXAMPLES])
    assert torch.allclose(head.predict(EXAMPLES), alone, atol=1e-4)
    assert alone.std() > 1e-3


def test_low_precision_still_gives_fp32_logits(base: Path, task: Task) -> None:
    low = open_head(base, task.spec, runtime=Runtime(dtype="bfloat16"))
    assert next(low.model.parameters()).dtype == torch.bfloat16
    assert low.predict(EXAMPLES).dtype == torch.float32
    assert torch.allclose(low.predict(EXAMPLES), open_head(base, task.spec).predict(EXAMPLES), atol=1.0)


def test_what_cannot_be_opened_is_refused(base: Path, task: Task, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dtype 'int4': choose from auto, float32, bfloat16, float16"):
        open_head(base, task.spec, runtime=Runtime(dtype="int4"))
    with pytest.raises(ConfigError, match=r"device 'abacus'"):
        open_head(base, task.spec, runtime=Runtime(device="abacus"))
    with pytest.raises(CheckpointError, match=r"model folder with config and tokenizer is needed"):
        open_head(base / "model.safetensors", task.spec)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty: transformers cannot load it"):
        open_head(tmp_path / "empty", task.spec)
    word_tokenizer().save_pretrained(write_bert(tmp_path / "bert"))
    with pytest.raises(CheckpointError, match=r"no padding token"):
        open_head(tmp_path / "bert", task.spec)
