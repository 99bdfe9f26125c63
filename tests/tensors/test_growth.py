"""Tensors of another shape are told apart: a vocabulary that grew, a head of other outputs, or neither."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from graft.tensors.checkpoint import Checkpoint
from graft.tensors.growth import Shapes, compare_shapes, declare_rows, vocabulary_rows
from tests.checkpoints import Tensors, write_single

BASE = {"embed.weight": (12, 4), "pos_embed_position.weight": (9, 4), "lm_head.weight": (12, 4), "lm_head.bias": (12,)}
BASE |= {"layers.0.w": (4, 4), "norm.weight": (4,), "score.weight": (2, 4), "score.bias": (2,)}


def tensors_of(shapes: dict[str, tuple[int, ...]]) -> Tensors:
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def shapes_of(folder: Path, changes: dict[str, tuple[int, ...]], **configs: Any) -> Shapes:
    base = Checkpoint.open(write_single(folder / "base", tensors_of(BASE), configs.get("base")))
    tuned = Checkpoint.open(write_single(folder / "tuned", tensors_of(BASE | changes), configs.get("tuned")))
    return compare_shapes(base, tuned, {name: name for name in BASE})


VOCABULARY = {"embed.weight": (15, 4), "lm_head.weight": (15, 4), "lm_head.bias": (15,)}


@pytest.mark.parametrize("nested", [None, {"vocab_size": 1}, {"text_config": {"vocab_size": 1}}])
def test_a_vocabulary_grows_as_a_whole_by_its_config_or_by_names(nested: Any, tmp_path: Path) -> None:
    text = {} if nested is None else json.loads(json.dumps(nested))
    configs = {}
    for which, size in (("base", 12), ("tuned", 15)):
        configs[which] = None if nested is None else json.loads(json.dumps(text).replace(": 1", f": {size}"))
    shapes = shapes_of(tmp_path, VOCABULARY, **configs)
    assert (shapes.grown, shapes.replaced, shapes.unlike) == (frozenset(VOCABULARY), frozenset(), {})


def test_an_embedding_of_any_name_is_the_vocabulary_where_the_config_says_so(tmp_path: Path) -> None:
    base = Checkpoint.open(write_single(tmp_path / "base", {"words": torch.zeros(12, 4)}, {"vocab_size": 12}))
    tuned = Checkpoint.open(write_single(tmp_path / "tuned", {"words": torch.zeros(13, 4)}, {"vocab_size": 13}))
    assert compare_shapes(base, tuned, {"words": "words"}).grown == {"words"}


@pytest.mark.parametrize(
    "changes",
    [
        {name: (9, *shape[1:]) for name, shape in VOCABULARY.items()},  # fewer rows
        {"lm_head.weight": (15, 4)},  # the output layer alone
        {"embed.weight": (15, 5)},
        {"layers.0.w": (5, 4)},
        {"norm.weight": (8,)},
        {"score.weight": (2, 5)},
        {"score.bias": (3,)},  # without its weight
        {"pos_embed_position.weight": (20, 4)},
    ],
)
def test_anything_else_cannot_be_compared(changes: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    shapes = shapes_of(tmp_path, changes, base={"vocab_size": 12}, tuned={"vocab_size": 12})
    assert not shapes.grown
    assert not shapes.replaced
    assert set(shapes.unlike) == set(changes)
    name = next(iter(changes))
    assert shapes.unlike[name].startswith(f"tensor {name!r} has shape {list(BASE[name])} in the base")


@pytest.mark.parametrize("outputs", [1, 3, 7])
def test_a_head_of_other_outputs_is_replaced_with_its_bias(outputs: int, tmp_path: Path) -> None:
    shapes = shapes_of(tmp_path, {"score.weight": (outputs, 4), "score.bias": (outputs,)})
    assert (shapes.replaced, shapes.grown, shapes.unlike) == ({"score.weight", "score.bias"}, frozenset(), {})


def test_a_config_is_told_of_new_rows_where_it_names_the_size(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"vocab_size": 12, "type_vocab_size": 12}, {"vocab_size": 15, "type_vocab_size": 12}),
        ({"text_config": {"vocab_size": 12}, "vocab_size": 7}, {"text_config": {"vocab_size": 15}, "vocab_size": 7}),
        ({"model_type": "x"}, {"model_type": "x", "vocab_size": 15}),
    ]
    for number, (before, after) in enumerate(cases):
        folder = write_single(tmp_path / str(number), tensors_of({"a": (1,)}), before)
        declare_rows(folder, 12, 15)
        assert json.loads((folder / "config.json").read_text()) == after
    bare = write_single(tmp_path / "bare", tensors_of({"embed.weight": (6, 2), "wpe.weight": (3, 2)}))
    declare_rows(bare, 12, 15)
    assert not (bare / "config.json").exists()
    assert vocabulary_rows(Checkpoint.open(bare)) == {6}
