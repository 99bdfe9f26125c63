"""Overlap against plain sets, chance against drawing, clusters against a graph walked by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.compose.clusters import clusters_at, leaf_order, single_linkage
from graft.compose.region_overlap import MOST_BY_LAYER, measure_overlap
from graft.files.tensor_spec import TensorSpec
from graft.patch.format.writing import save_patch
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.tensors.scope import layer_of
from tests.compose.patches import BASE, patch_of, patches

QUIET = settings(derandomize=True, deadline=None, max_examples=60)


@QUIET
@given(patches(2))
def test_every_number_is_that_of_plain_sets(parts: list[Patch]) -> None:
    found = measure_overlap(*parts, samples=2)
    sets = [{(name, int(i)) for name in part.mask for i in part.mask[name]} for part in parts]
    assert found.k == tuple(map(len, sets))
    pairs = iter(found.pairs)
    for i, a in enumerate(sets):
        for j in range(i + 1, len(sets)):
            pair, b = next(pairs), sets[j]
            assert (pair.a, pair.b, pair.intersection) == (f"{i + 1}", f"{j + 1}", len(a & b))
            assert (pair.share_of_a, pair.share_of_b) == (len(a & b) / len(a), len(a & b) / len(b))
            assert pair.jaccard == parts[i].mask.jaccard(parts[j].mask) == found.matrix()[j, i]
            assert pair.expected == len(a) * len(b) / 26
            by_tensor = [
                len([x for x in a if x[0] == n]) * len([x for x in b if x[0] == n]) / BASE[n].numel() for n in BASE
            ]
            assert pair.expected_by_tensor == pytest.approx(sum(by_tensor))
            assert sum(layer.intersection for layer in pair.layers.values()) == len(a & b)
            assert set(pair.layers) == {layer_of(n) for n, _ in a} & {layer_of(n) for n, _ in b}
    assert next(pairs, None) is None
    assert (
        json.loads(json.dumps(found.to_json(), allow_nan=False))["pairs"][0]["share_of_b"] == found.pairs[0].share_of_b
    )


def test_chance_by_tensor_is_the_mean_and_spread_of_random_masks() -> None:
    specs = {"layers.0.w": TensorSpec("F32", (40,)), "layers.1.w": TensorSpec("F32", (200,))}
    counts = ({"layers.0.w": 30, "layers.1.w": 10}, {"layers.0.w": 20, "layers.1.w": 15})
    draws = np.random.default_rng(0)

    def draw(k: dict[str, int]) -> Mask:
        return Mask.of(specs, {n: draws.choice(specs[n].numel, k[n], replace=False) for n in specs})

    met = [len(draw(counts[0]) & draw(counts[1])) for _ in range(4000)]
    pair = measure_overlap(draw(counts[0]), draw(counts[1])).pairs[0]
    assert pair.z_by_tensor is not None
    spread = (pair.intersection - pair.expected_by_tensor) / pair.z_by_tensor
    assert pair.expected_by_tensor == pytest.approx(np.mean(met), abs=4 * spread / 4000**0.5)
    assert spread == pytest.approx(np.std(met), rel=0.05)
    assert pair.expected is None  # masks name no base
    assert pair.expected_by_tensor > 2 * 40 * 35 / 240  # what both favor makes chance look like kinship


def test_files_and_memory_give_the_same(tmp_path: Path) -> None:
    parts = [patch_of({("layers.0.w", i): 1.0, ("layers.1.w", 2): 2.0}) for i in range(3)]
    for i, part in enumerate(parts):
        save_patch(part.mask if i == 1 else part, tmp_path / f"{i + 1}.safetensors")
    files = [tmp_path / f"{i + 1}.safetensors" for i in range(3)]
    assert measure_overlap(*files) == measure_overlap(*parts)
    assert measure_overlap(*files, labels=["x", "y", "x"]).names == ("x", "y", "x (2)")


def test_clusters_are_connected_components_at_the_threshold() -> None:
    def region(*indices: int) -> Patch:
        return patch_of({("layers.0.w", i): 1.0 for i in indices})

    chain = [region(0, 1), region(1, 2), region(2, 3), region(8, 9), region(9, 10)]  # neighbors: 1/3
    assert measure_overlap(*chain).clusters == (("1", "2", "3"), ("4", "5"))
    assert measure_overlap(*chain, threshold=1 / 3).clusters == (("1", "2", "3"), ("4", "5"))  # from it on
    assert measure_overlap(*chain, threshold=0.34).clusters == (("1",), ("2",), ("3",), ("4",), ("5",))
    assert measure_overlap(chain[0], chain[0], threshold=1).clusters == (("1", "2"),)


@QUIET
@given(st.integers(2, 7), st.integers(0, 999), st.sampled_from([0.2, 0.5, 0.8]))
def test_the_tree_cut_anywhere_gives_the_components(m: int, seed: int, threshold: float) -> None:
    draws = np.random.default_rng(seed)
    similarity = np.round(draws.random((m, m)), 1)
    similarity = np.maximum(similarity, similarity.T)
    reach = (similarity >= threshold) | np.eye(m, dtype=bool)
    for _ in range(m):
        reach = reach @ reach
    joins = single_linkage(similarity)
    components = {tuple(np.flatnonzero(row).tolist()) for row in reach}
    assert clusters_at(joins, threshold) == tuple(sorted(components))
    assert len(joins) == m - 1
    assert joins[-1].size == m
    heights = [join.similarity for join in joins]
    assert heights == sorted(heights, reverse=True)
    assert sorted(leaf_order(joins)) == list(range(m))


def test_many_regions_are_compared_without_their_layers() -> None:
    part = patch_of({("layers.0.w", 0): 1.0})
    assert measure_overlap(*[part] * MOST_BY_LAYER).pairs[0].layers
    many = measure_overlap(*[part] * (MOST_BY_LAYER + 1))
    assert not many.pairs[0].layers
    assert {pair.jaccard for pair in many.pairs} == {1.0}
