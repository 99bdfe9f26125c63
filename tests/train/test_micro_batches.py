"""A step's micro-batches add up to the gradient of the whole batch's mean loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from graft.specs.head import HeadSpec
from graft.tasks.examples import Example
from graft.tasks.head import Head
from graft.tasks.heads.lm import LanguageModelHead
from graft.tasks.heads.similarity import SimilarityHead
from graft.train.distribution import SharedLoss
from graft.train.master_weights import MasterWeights
from tests.models import toy_examples, toy_spec, write_bert, write_causal


def gradients(head: Head, batch: Sequence[Example], size: int | None, precision: Any = "pure") -> tuple[float, Any]:
    head.model.zero_grad()
    loss = SharedLoss(head, MasterWeights(head.model, precision), size).backward(head, batch)
    return float(loss), {
        name: weight.grad.clone() for name, weight in head.model.named_parameters() if weight.grad is not None
    }


@pytest.fixture(scope="module", params=["similarity", "lm"])
def head(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Head:
    folder = tmp_path_factory.mktemp("micro")
    if request.param == "lm":
        spec = toy_spec(labels=(), head=HeadSpec("lm"))
        return LanguageModelHead.load(write_causal(folder, steps=5), spec, torch.float32)
    return SimilarityHead.load(write_bert(folder), toy_spec(), torch.float32)


@pytest.mark.parametrize("size", [1, 3, 7, 8, 100, None])
def test_the_gradient_is_that_of_the_whole_batch(head: Head, size: int | None) -> None:
    head.model.eval()
    batch = toy_examples(8)
    batch[2] = dataclasses.replace(batch[2], texts=("good",))  # without a token to predict, where tokens are
    batch[5] = dataclasses.replace(batch[5], texts=("bad",))
    loss, whole = gradients(head, batch, None)
    found, parts = gradients(head, batch, size)
    assert found == pytest.approx(loss, rel=1e-5)
    assert parts.keys() == whole.keys()
    largest = max(float(gradient.abs().max()) for gradient in whole.values())
    assert largest > 1e-3
    assert all(torch.allclose(parts[name], whole[name], rtol=1e-3, atol=1e-5 * largest) for name in whole)
    if size is None or size >= 8:
        assert all(torch.equal(parts[name], whole[name]) for name in whole)


def test_no_more_examples_go_through_the_model_at_once(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, loss = [], head.loss
    monkeypatch.setattr(head, "loss", lambda batch: sizes.append(len(batch)) or loss(batch))
    gradients(head, toy_examples(8), 3)
    assert sizes == [3, 3, 2]
