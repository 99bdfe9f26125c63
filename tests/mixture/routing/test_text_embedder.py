"""Texts embedded by a resident base: as the similarity head does, whatever the batches, and without any skill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import graft
from graft.errors import CheckpointError
from graft.mixture.routing.learning import learn_reference
from graft.mixture.routing.router import Router
from graft.mixture.routing.text_embedder import TextEmbedder
from graft.tasks.heads.similarity import SimilarityHead
from tests.models import FILMS, MEALS, toy_rows, toy_spec, write_causal

TEXTS = [row["text"] for row in toy_rows(30, 5)]


@pytest.fixture
def opened(base: Path) -> tuple[Any, Any]:
    return AutoModel.from_pretrained(base), AutoTokenizer.from_pretrained(base)


def test_vectors_are_those_of_the_similarity_head_in_any_batches(base: Path, opened: tuple[Any, Any]) -> None:
    head = SimilarityHead.load(base, toy_spec(), torch.float32)
    with head.evaluating():
        expected = torch.cat([head.embed([(text,)]) for text in TEXTS])
    for batch_size in (1, 7, 64):
        assert torch.allclose(TextEmbedder(*opened, batch_size=batch_size)(TEXTS), expected, atol=1e-5)
    assert not torch.allclose(expected[0], expected[1], atol=1e-2)  # it would be seen
    assert TextEmbedder(*opened)([]).numel() == 0


def test_a_mixed_model_embeds_without_its_skills(base: Path, tuned: Path, opened: tuple[Any, Any]) -> None:
    model, tokenizer = opened
    plain = TextEmbedder(model, tokenizer)(TEXTS)
    with graft.serve_patches(model, {"moods": graft.diff_checkpoints(base, tuned, density=0.01)}) as mixed:
        embed = TextEmbedder(mixed, tokenizer)
        with mixed.skills(["moods"]):
            assert not torch.allclose(TextEmbedder(model, tokenizer)(TEXTS), plain, atol=1e-3)  # it would be seen
            assert torch.equal(embed(TEXTS), plain)


def test_films_and_meals_are_told_apart_by_a_real_encoder(opened: tuple[Any, Any]) -> None:
    embed = TextEmbedder(*opened)
    draws = {
        name: [row["text"] for row in toy_rows(160, seed, things)]
        for name, seed, things in (("films", 1, FILMS), ("meals", 2, MEALS))
    }
    router = Router(embed, {name: learn_reference(embed, texts[:60], texts[60:110]) for name, texts in draws.items()})
    for name, texts in draws.items():
        chosen = router.choose(texts[110:])
        assert chosen.count(name) >= 40
        assert len(chosen) - chosen.count(name) - chosen.count(None) <= 3


def test_the_part_below_a_language_models_head_is_run(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = write_causal(tmp_path / "causal", steps=0)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    vectors = TextEmbedder(model, tokenizer)(TEXTS[:4])
    assert vectors.shape == (4, model.config.hidden_size)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(4))


def test_states_that_are_not_finite_are_refused(opened: tuple[Any, Any]) -> None:
    model, tokenizer = opened
    with torch.no_grad():
        model.encoder.layer[1].output.dense.weight.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="states are not finite"):
        TextEmbedder(model, tokenizer)(TEXTS)
