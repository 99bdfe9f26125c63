"""Patches that bring new rows of a vocabulary, joined and taken from one another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graft.compose.composition import compose_patches
from graft.compose.exclusion import exclude_patches
from graft.errors import OverlapError
from graft.patch.format.writing import save_patch
from graft.patch.provenance import Provenance
from graft.patch.skill_patch import Patch
from graft.tensors.growth import Growth
from tests.checkpoints import make_patch

BASE = {"embed.weight": torch.zeros(7, 4), "layers.0.w": torch.zeros(4), "norm.running_mean": torch.zeros(2)}


def grown(entry: int, tokens: tuple[str, ...] = ("<a>",), value: float = 1.0) -> Patch:
    origin = Provenance(grown={"embed.weight": Growth(7, tokens)})
    dense = {"embed.weight": torch.full((1, 4), value)}
    return make_patch(BASE, {"layers.0.w": {entry: 2.0}}, with_base_values=True, provenance=origin, dense=dense)


def plain(entry: int) -> Patch:
    changes = {"layers.0.w": {entry: 3.0}, "norm.running_mean": {1: 5.0}}
    origin = Provenance(buffers=("norm.running_mean",))
    return make_patch(BASE, changes, with_base_values=True, provenance=origin)


def test_one_vocabulary_stays_one(tmp_path: Path) -> None:
    whole = compose_patches(grown(0), grown(1), plain(2))
    assert (whole.k, len(whole)) == (3, 4)
    assert whole.provenance.grown == grown(0).provenance.grown
    assert whole.dense["embed.weight"].eq(1).all()
    assert whole.provenance.buffers == ("norm.running_mean",)
    paths = [tmp_path / "a", tmp_path / "b"]
    for path, patch in zip(paths, (grown(0), grown(1)), strict=True):
        save_patch(patch, path)
    assert compose_patches(*paths).provenance.grown == whole.provenance.grown


@pytest.mark.parametrize("other", [grown(1, ("<b>",)), grown(1, value=2.0)])
def test_two_vocabularies_need_a_rule(other: Patch) -> None:
    with pytest.raises(OverlapError, match=r"embed\.weight.*--on-overlap first or last"):
        compose_patches(grown(0), other)
    for rule, kept in (("first", grown(0)), ("last", other)):
        whole = compose_patches(grown(0), other, on_overlap=rule)  # type: ignore[arg-type]
        assert whole.provenance.grown == kept.provenance.grown
        assert torch.equal(whole.dense["embed.weight"], kept.dense["embed.weight"])


def test_rows_are_excluded_with_the_skill_that_brings_them_too() -> None:
    kept = exclude_patches(grown(0), plain(1))
    assert kept.provenance.grown.keys() == kept.dense.keys() == {"embed.weight"}
    left = exclude_patches(grown(0), grown(1))
    assert (left.provenance.grown, left.dense) == ({}, {})
