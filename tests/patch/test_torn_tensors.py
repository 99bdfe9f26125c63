"""A tensor that one patch brings whole and another changes in part comes from one of them, with its module."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification

from graft.compose.composition import compose_patches
from graft.errors import OverlapError
from graft.localize.diff import diff_checkpoints
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from graft.patch.mask import Mask
from graft.patch.merge import merge_patches
from graft.patch.overlap_rules import OverlapRule
from graft.patch.provenance import Provenance
from graft.patch.skill_patch import Patch
from graft.patch.torn_tensors import Touched, settle_torn
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.growth import Growth
from tests.checkpoints import bits_of, make_patch, nudged, save_model, small_classifier, write_single

WEIGHT, BIAS = "classifier.weight", "classifier.bias"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save_model(small_classifier(), tmp_path / "base")


@pytest.fixture
def changed(base: Path, tmp_path: Path) -> Patch:
    """Change entries of the base's weight, of three labels, and none of its bias."""
    patch = diff_checkpoints(base, save_model(nudged(small_classifier()), tmp_path / "changed"))
    kept = {name: patch.mask[name] for name in patch.mask if name != BIAS}
    task = {"name": "three", "head": {"architecture": "BertForSequenceClassification", "labels": ["a", "b", "c"]}}
    return dataclasses.replace(
        patch, mask=Mask.of(patch.mask.specs, kept), provenance=dataclasses.replace(patch.provenance, task=task)
    )


@pytest.fixture
def replaced(base: Path, tmp_path: Path) -> Patch:
    """Bring a head of two labels."""
    other = small_classifier(small_classifier().bert, 2)
    with torch.no_grad():
        other.bert.pooler.dense.weight[0, 0] += 1
    patch = diff_checkpoints(base, save_model(other, tmp_path / "replaced"))
    task = {"name": "two", "head": {"architecture": "BertForSequenceClassification", "labels": ["x", "y"]}}
    return dataclasses.replace(patch, provenance=dataclasses.replace(patch.provenance, task=task))


def test_without_a_rule_it_is_refused(base: Path, changed: Patch, replaced: Patch, tmp_path: Path) -> None:
    assert WEIGHT in changed.mask
    assert replaced.dense.keys() == {WEIGHT, BIAS}
    opened, out = Checkpoint.open(base), tmp_path / "none"
    rules: list[OverlapRule] = ["error", "mean"]
    for patches, rule in itertools.product(([changed, replaced], [replaced, changed]), rules):
        with pytest.raises(OverlapError, match=rf"whole tensor '{WEIGHT}'.*--on-overlap first or last"):
            merge_patches(opened, patches, out, on_overlap=rule)
        with pytest.raises(OverlapError, match=rf"whole tensor '{WEIGHT}'.*--on-overlap first or last"):
            compose_patches(*patches, base=base, on_overlap=rule)
    assert not out.exists()


@pytest.mark.parametrize("rule", ["first", "last"])
@pytest.mark.parametrize("wins", ["changed", "replaced"])
def test_the_rule_decides_and_gives_one_head_whole(
    rule: OverlapRule, wins: str, base: Path, changed: Patch, replaced: Patch, tmp_path: Path
) -> None:
    order = [changed, replaced] if (rule == "first") == (wins == "changed") else [replaced, changed]
    merge_patches(Checkpoint.open(base), order, tmp_path / "merged", on_overlap=rule)
    model, report = BertForSequenceClassification.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(report.values())
    goal = BertForSequenceClassification.from_pretrained(tmp_path / wins)
    assert torch.equal(model.classifier.weight, goal.classifier.weight)
    head = goal if wins == "replaced" else BertForSequenceClassification.from_pretrained(base)
    assert torch.equal(model.classifier.bias, head.classifier.bias)
    assert list(model.config.id2label.values()) == (["a", "b", "c"] if wins == "changed" else ["x", "y"])
    composed = compose_patches(*order, base=base, on_overlap=rule)
    assert (WEIGHT in composed.mask, set(composed.dense)) == (
        (True, set()) if wins == "changed" else (False, {WEIGHT, BIAS})
    )
    assert composed.provenance.method["overlap"]["whole"] == [*([BIAS] if wins == "changed" else []), WEIGHT]
    save_patch(composed, tmp_path / "composed")
    merge_patches(Checkpoint.open(base), [load_patch(tmp_path / "composed")], tmp_path / "again")
    again, merged = (Checkpoint.open(tmp_path / name) for name in ("again", "merged"))
    assert bits_of({n: again.read(n) for n in again.names}) == bits_of({n: merged.read(n) for n in merged.names})


@pytest.mark.parametrize("rule", ["error", "first", "last"])
def test_new_rows_are_a_part_too(rule: OverlapRule, tmp_path: Path) -> None:
    tensors = {"embed.weight": torch.zeros(7, 4), "layers.0.w": torch.zeros(3)}
    origin = Provenance(grown={"embed.weight": Growth(7)})
    rows = make_patch(tensors, {"layers.0.w": {0: 2.0}}, provenance=origin, dense={"embed.weight": torch.ones(1, 4)})
    whole = make_patch(tensors, {"layers.0.w": {1: 3.0}}, dense={"embed.weight": torch.full((7, 4), 5.0)})
    base = Checkpoint.open(write_single(tmp_path / "base", tensors))
    if rule == "error":
        with pytest.raises(OverlapError, match=r"whole tensor 'embed\.weight'"):
            merge_patches(base, [rows, whole], tmp_path / "out")
        return
    merge_patches(base, [rows, whole], tmp_path / "out", on_overlap=rule)
    merged = Checkpoint.open(tmp_path / "out").read("embed.weight")
    goal = torch.cat([torch.zeros(7, 4), torch.ones(1, 4)]) if rule == "first" else torch.full((7, 4), 5.0)
    assert torch.equal(merged, goal)


def test_tensors_of_one_module_stay_together_and_others_untouched() -> None:
    parts = [
        Touched.of(["a.w", "b.w"], [], []),
        Touched.of(["c.w"], ["a.w", "a.b", "d.w"], []),
        Touched.of(["a.b"], [], []),
    ]
    assert settle_torn(parts, "first") == [frozenset(), frozenset({"a.w", "a.b"}), frozenset()]
    assert settle_torn(parts, "last") == [frozenset(), frozenset({"a.w", "a.b"}), frozenset()]
    assert settle_torn(parts[:2], "last") == [frozenset({"a.w"}), frozenset()]
    apart = [
        Touched.of(["a.w"], [], []),
        Touched.of(["b.w"], ["a.b"], []),
    ]  # a weight's entries, and a bias that is new
    assert settle_torn(apart, "error") == [frozenset(), frozenset()]
