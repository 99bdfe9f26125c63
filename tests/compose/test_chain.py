"""A chain as one patch gives, bit for bit, what its patches give one after the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from graft.compose.chain import chain_patches
from graft.compose.exclusion import exclude_patches
from graft.errors import BudgetError, ConfigError, PatchError, PatchFormatError, PatchMismatchError
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import patch_bytes, save_patch
from graft.patch.live import apply_patch
from graft.patch.merge import merge_patches
from graft.patch.result import ResultCheckpoint, digests_of, find_differences
from graft.patch.skill_patch import Patch
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import take
from graft.tensors.hashing import digest_of, hash_values
from tests.checkpoints import (
    Tensors,
    bits_of,
    cut,
    equal_tensors,
    make_patch,
    model_of,
    nudged,
    save_model,
    small_bert,
    small_classifier,
    small_llama,
    write_single,
)
from tests.compose.patches import BASE, ORIGIN, PLACES, VALUES, applied, same_content

QUIET = settings(derandomize=True, deadline=None, max_examples=60)
CHANGES = st.dictionaries(st.sampled_from(PLACES), st.one_of(VALUES, st.none()), min_size=1)  # None: the base's value


def link(changes: Any, before: Tensors, number: int, *, stored: bool) -> Patch:
    """A patch cut from a model that earlier patches gave."""
    by_name: dict[str, dict[int, float]] = {}
    for (name, i), value in changes.items():
        by_name.setdefault(name, {})[i] = float(BASE[name].view(-1)[i]) if value is None else value
    origin = replace(ORIGIN, base=replace(ORIGIN.base, digest=f"{number:02}" * 32))
    return make_patch(before, by_name, with_base_values=stored, provenance=origin)


def links_of(changes: Any, *, stored: bool) -> tuple[list[Patch], Tensors]:
    """Patches each cut from what those before it give, and what they give together."""
    tensors, chain = dict(BASE), []
    for number, entries in enumerate(changes):
        chain.append(link(entries, tensors, number, stored=stored))
        tensors = applied(chain[-1], tensors)
    return chain, tensors


@QUIET
@given(st.lists(CHANGES, min_size=2, max_size=4), st.booleans())
def test_the_chain_is_what_its_patches_give_in_turn(
    tmp_path_factory: pytest.TempPathFactory, changes: Any, stored: bool
) -> None:
    base = None if stored else write_single(tmp_path_factory.mktemp("chain") / "base", BASE)
    chain, tensors = links_of(changes, stored=stored)
    try:
        whole = chain_patches(*chain, base=base)
    except BudgetError:
        assert equal_tensors(tensors, BASE)
        return
    assert equal_tensors(applied(whole), tensors)
    for name in whole.mask:
        assert whole.base_hashes[name] == hash_values(take(BASE[name], torch.tensor(whole.mask[name])))
    assert (whole.base_values is not None) == stored
    model = model_of({name: tensor.clone() for name, tensor in BASE.items()})
    before = bits_of(model)
    with apply_patch(model, whole):
        assert bits_of(model) == bits_of(tensors)
    assert bits_of(model) == before
    assert whole.provenance.base == chain[0].provenance.base
    assert [part["k"] for part in whole.provenance.method["of"]] == [len(patch) for patch in chain]


@QUIET
@given(st.lists(CHANGES, min_size=3, max_size=3))
def test_chains_associate(changes: Any) -> None:
    (a, b, c), _ = links_of(changes, stored=True)
    try:
        whole, left, right = chain_patches(a, b, c), chain_patches(a, b), chain_patches(b, c)
        assert same_content(chain_patches(left, c), whole)
        assert equal_tensors(applied(chain_patches(a, right)), applied(whole))
    except BudgetError:  # a part of it, or all, gives back what it began with
        assume(False)


def test_a_part_taken_back_drops_out_and_is_counted() -> None:
    (first, back), tensors = links_of(
        [{("layers.0.w", 1): 7.5, ("layers.0.w", 4): 2.0}, {("layers.0.w", 1): None}], stored=True
    )
    whole = chain_patches(first, back)
    assert whole.mask["layers.0.w"].tolist() == [4]
    assert whole.provenance.method["restored"] == 1
    assert equal_tensors(applied(whole), tensors)
    (first, back), tensors = links_of([{("head.b", 0): 7.5}, {("head.b", 0): None}], stored=True)
    with pytest.raises(BudgetError, match="nothing is left of the chain: 1 entries are the base's again"):
        chain_patches(first, back)
    (first, sign), tensors = links_of([{("head.b", 0): 7.5}, {("head.b", 0): -0.0}], stored=True)
    assert len(chain_patches(first, sign)) == 1  # -0.0 is not the base's 0.0
    (*taken, more), tensors = links_of([{("head.b", 0): 7.5}, {("head.b", 0): None}, {("head.b", 1): 2.0}], stored=True)
    assert equal_tensors(applied(chain_patches(*taken, more)), tensors)


def test_what_needs_the_base_says_so_and_what_does_not_does_without(tmp_path: Path) -> None:
    (first, second), _ = links_of([{("layers.0.w", 1): 7.5}, {("layers.0.w", 2): 2.0}], stored=False)
    with pytest.raises(PatchError, match=r"tensor 'layers\.0\.w': the base's values are needed.*--base MODEL"):
        chain_patches(first, second)
    assert len(chain_patches(first, second, base=write_single(tmp_path / "base", BASE))) == 2
    (first, second), tensors = links_of([{("layers.0.w", 1): 7.5}, {("layers.1.w", 2): 2.0}], stored=False)
    assert equal_tensors(applied(chain_patches(first, second)), tensors)


def test_what_is_no_chain_is_refused(tmp_path: Path) -> None:
    base = write_single(tmp_path / "base", BASE)
    (first, second), _ = links_of([{("layers.0.w", 1): 7.5}, {("layers.0.w", 1): 2.0, ("head.b", 0): 2.0}], stored=True)
    assert len(chain_patches(first, second, base=base, labels=["a", "b"])) == 2
    with pytest.raises(PatchMismatchError, match=r"^a does not chain on base \+ b: tensor 'layers\.0\.w': the values"):
        chain_patches(replace_digest(second, "00"), replace_digest(first, "01"), base=None, labels=["b", "a"])
    other = write_single(tmp_path / "other", {**BASE, "layers.0.w": BASE["layers.0.w"] + 1})
    with pytest.raises(PatchMismatchError, match=r"^a does not fit .*other: tensor 'layers\.0\.w'"):
        chain_patches(first, second, base=other, labels=["a", "b"])
    with pytest.raises(PatchMismatchError, match="both are of one base: compose them without --chain"):
        chain_patches(first, replace_digest(second, "00"))
    stated = replace(first, provenance=replace(first.provenance, result="77" * 32))
    with pytest.raises(PatchMismatchError, match=r"b does not chain on a: .* digest 01010101.*states the result 7777"):
        chain_patches(stated, second, labels=["a", "b"])
    with pytest.raises(ConfigError, match="a chain needs two patches or more"):
        chain_patches(first)
    save_patch(second.mask, tmp_path / "mask.safetensors")
    with pytest.raises(PatchFormatError, match="a mask holds no values"):
        chain_patches(first, tmp_path / "mask.safetensors")


def replace_digest(patch: Patch, digits: str) -> Patch:
    base = replace(patch.provenance.base, digest=digits * 32)
    return replace(patch, provenance=replace(patch.provenance, base=base))


def test_a_known_result_goes_along_and_a_changed_patch_loses_it(tmp_path: Path) -> None:
    base = write_single(tmp_path / "base", BASE)
    first = make_patch(BASE, {"layers.0.w": {1: 7.5}}, provenance=ORIGIN)
    first = stating(first, base)
    merge_patches(Checkpoint.open(base), [first], tmp_path / "middle")
    second = cut(tmp_path / "middle", write_single(tmp_path / "tuned", {**applied(first), "head.b": torch.ones(4)}))
    second = stating(second, tmp_path / "middle")
    whole = chain_patches(first, second, base=base)
    assert whole.provenance.result == second.provenance.result == digest_of(Checkpoint.open(tmp_path / "tuned"))
    assert digests_of(ResultCheckpoint(Checkpoint.open(base), [whole]))[1] == whole.provenance.result
    unstated = replace(first, provenance=replace(first.provenance, result=None))
    assert chain_patches(unstated, second, base=base).provenance.result is None
    assert exclude_patches(second, first.mask, base=tmp_path / "middle").provenance.result is not None  # disjoint
    less = exclude_patches(whole, first.mask if len(first) < len(whole) else second.mask, base=base)
    assert less.provenance.result is None


def stating(patch: Patch, base: Path) -> Patch:
    digest = digests_of(ResultCheckpoint(Checkpoint.open(base), [patch]))[1]
    return replace(patch, provenance=replace(patch.provenance, result=digest))


def check_folders(base: Path, models: list[Path], folder: Path, tasks: list[Any]) -> Patch:
    """Cut a patch from base + patches so far to each model; the chain must give the last folder."""
    chain, here = [], base
    for number, (model, task) in enumerate(zip(models, tasks, strict=True)):
        chain.append(cut(here, model, task=task))
        merge_patches(Checkpoint.open(here), [chain[-1]], folder / f"step{number}")
        here = folder / f"step{number}"
    whole = chain_patches(*chain, base=base)
    save_patch(whole, folder / "whole.safetensors")
    loaded = load_patch(folder / "whole.safetensors")
    assert patch_bytes(loaded) == (folder / "whole.safetensors").read_bytes()
    result = ResultCheckpoint(Checkpoint.open(base), [loaded])
    assert find_differences(result, Checkpoint.open(here)) == {}
    assert digests_of(result)[1] == digest_of(Checkpoint.open(here))
    return whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_a_language_model_and_its_rollback(tied: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    model = small_llama(tied=tied, dtype=dtype)
    base = save_model(model, tmp_path / "base")
    one, two = nudged(model), nudged(nudged(model), seed=2)
    models = [save_model(one, tmp_path / "one"), save_model(two, tmp_path / "two")]
    check_folders(base, models, tmp_path, [None, None])
    back = cut(tmp_path / "step0", base)  # the tuned model's rollback to the base, whole
    with pytest.raises(BudgetError, match="nothing is left of the chain"):
        chain_patches(cut(base, tmp_path / "one"), back, base=base)


TASK = {"name": "toy", "labels": ["no", "yes", "maybe"], "head": {"architecture": "BertForSequenceClassification"}}


def test_entries_in_a_head_that_the_chain_brought(tmp_path: Path) -> None:
    encoder = small_bert()
    base = save_model(encoder, tmp_path / "base")
    one = nudged(small_classifier(encoder))
    two = nudged(one, seed=4)
    models = [save_model(one, tmp_path / "one"), save_model(two, tmp_path / "two")]
    whole = check_folders(base, models, tmp_path, [TASK, TASK])
    assert torch.equal(whole.dense["classifier.weight"], two.classifier.weight)


def test_the_last_head_is_the_one(tmp_path: Path) -> None:
    encoder = small_bert()
    base = save_model(encoder, tmp_path / "base")
    one, two = nudged(small_classifier(encoder)), nudged(small_classifier(encoder, n_labels=4), seed=3)
    models = [save_model(one, tmp_path / "one"), save_model(two, tmp_path / "two")]
    later = {**TASK, "labels": list("abcd"), "name": "other"}
    whole = check_folders(base, models, tmp_path, [TASK, later])
    assert whole.dense["classifier.weight"].shape[0] == 4
    assert whole.provenance.task == later


@pytest.mark.parametrize("again", [False, True])
def test_a_vocabulary_that_grew_in_the_chain(again: bool, tmp_path: Path) -> None:
    model = small_llama(tied=True)
    base = save_model(model, tmp_path / "base")
    one = nudged(model)
    one.resize_token_embeddings(19, mean_resizing=False)
    two = nudged(one, seed=3, share=0.6)
    if again:
        two.resize_token_embeddings(21, mean_resizing=False)
    models = [save_model(one, tmp_path / "one"), save_model(two, tmp_path / "two")]
    whole = check_folders(base, models, tmp_path, [None, None])
    assert {len(rows) for rows in whole.dense.values()} == {5 if again else 3}
