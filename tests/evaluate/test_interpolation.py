from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModel, BertForSequenceClassification

from graft.errors import MismatchError
from graft.evaluate.evaluation import predict_task
from graft.evaluate.interpolation import Match, Mix, RandomShare, interpolate, interpolated, match_accuracy
from graft.localize.localization import localize_skill
from graft.specs.localize import LocalizeSpec
from graft.tasks.head import open_head
from graft.tasks.task import Task
from graft.tensors.dtypes import take
from graft.tensors.pair import CheckpointPair
from tests.checkpoints import bits_of, nudged, save_model, small_bert, small_classifier, small_llama
from tests.models import copy_with


@pytest.fixture
def pair(base: Path, tuned: Path) -> CheckpointPair:
    return CheckpointPair.open(base, tuned)


def held(model: Any, pair: CheckpointPair, mix: Mix) -> dict[str, torch.Tensor]:
    """The model's parameters within a blend."""
    with interpolated(model, pair, mix):
        return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}


def test_the_ends_of_the_line_are_base_and_tuned(base: Path, tuned: Path, task: Task, pair: CheckpointPair) -> None:
    head = open_head(base, task.spec)
    before = bits_of(head.model)
    assert before != bits_of(open_head(tuned, task.spec).model)
    with interpolated(head.model, pair, interpolate(0.0)):
        assert bits_of(head.model) == before
    with interpolated(head.model, pair, interpolate(1.0)):
        assert bits_of(head.model) == bits_of(open_head(tuned, task.spec).model)
        report = predict_task(head, task).report()
    assert report == predict_task(open_head(tuned, task.spec), task).report()
    assert bits_of(head.model) == before


def test_between_them_every_weight_has_gone_that_share_of_its_way(base: Path, pair: CheckpointPair) -> None:
    model = AutoModel.from_pretrained(base)
    for name, tensor in held(model, pair, interpolate(0.25)).items():
        start, end = pair.read(name)
        torch.testing.assert_close(tensor, start + 0.25 * (end - start))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_is_as_before_also_after_an_error(
    dtype: torch.dtype, base: Path, tuned: Path, tmp_path: Path
) -> None:
    before, after = (copy_with(path, tmp_path / path.name, lambda *_: None, dtype) for path in (base, tuned))
    model = AutoModel.from_pretrained(before, dtype=dtype)
    bits, pair = bits_of(model), CheckpointPair.open(before, after)

    def interrupted() -> None:
        with interpolated(model, pair, interpolate(0.5)):
            assert bits_of(model) != bits
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert bits_of(model) == bits

    def fails(name: str, start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        if "layer.1" in name:
            raise MemoryError
        return end

    with pytest.raises(MemoryError), interpolated(model, pair, fails):
        pass
    assert bits_of(model) == bits


@pytest.mark.parametrize("wrapper", ["", "_orig_mod."])
def test_a_head_that_only_the_tuned_model_has_comes_along_whole(wrapper: str, tmp_path: Path) -> None:
    encoder = small_bert()
    base = save_model(encoder, tmp_path / "base")
    tuned = save_model(small_classifier(nudged(encoder)), tmp_path / "tuned")
    tensors = {wrapper + name: tensor for name, tensor in load_file(tuned / "model.safetensors").items()}
    save_file(tensors, tuned / "model.safetensors", {"format": "pt"})
    model = BertForSequenceClassification.from_pretrained(base, num_labels=3)
    pair, before = CheckpointPair.open(base, tuned), bits_of(model)
    head = held(model, pair, interpolate(0.5))["classifier.weight"]
    assert not torch.equal(head, model.classifier.weight)
    assert torch.equal(head, pair.tuned.read(f"{wrapper}classifier.weight"))
    assert bits_of(model) == before


def test_tied_weights_are_blended_once(tmp_path: Path) -> None:
    model = small_llama(tied=True)
    pair = CheckpointPair.open(
        save_model(model, tmp_path / "base"), save_model(nudged(model, share=1.0), tmp_path / "tuned")
    )
    before = bits_of(model)
    start = model.lm_head.weight.detach().clone()
    with interpolated(model, pair, interpolate(0.5)):
        assert model.lm_head.weight is model.model.embed_tokens.weight
        torch.testing.assert_close(model.lm_head.weight.detach(), start + 0.25)
    assert bits_of(model) == before


def test_a_model_that_is_not_the_base_is_refused(base: Path, tuned: Path, pair: CheckpointPair) -> None:
    model = AutoModel.from_pretrained(tuned)
    bits = bits_of(model)
    with (
        pytest.raises(MismatchError, match=r"tensor '.*' of the model does not hold the base's values"),
        interpolated(model, pair, interpolate(0.5)),
    ):
        pass
    assert bits_of(model) == bits


def test_random_shares_are_nested_of_their_size_and_within_scope(base: Path, pair: CheckpointPair) -> None:
    names = frozenset(name for name in pair.names if ".layer." in name)
    n = sum(pair.base.spec(name).numel for name in names)
    model = AutoModel.from_pretrained(base)
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    smaller: dict[str, torch.Tensor] = {name: torch.zeros_like(w, dtype=torch.bool) for name, w in before.items()}
    for share in (0.1, 0.4, 1.0):
        mix = RandomShare(names, share, seed=3)
        moved = {name: tensor != before[name] for name, tensor in held(model, pair, mix).items()}
        assert all((moved[name] | ~smaller[name]).all() for name in moved)
        assert {name for name in moved if moved[name].any()} <= names
        assert sum(int(moved[name].sum()) for name in moved) == mix.count(pair) == pytest.approx(share * n, rel=0.1)
        smaller = moved
    assert RandomShare(names, 0.1, seed=4).count(pair) != RandomShare(names, 0.1, seed=3).count(pair)


def test_a_larger_share_holds_the_random_patch_of_its_seed(base: Path, tuned: Path, pair: CheckpointPair) -> None:
    patch = localize_skill(base, tuned, None, LocalizeSpec("random", density=0.05, seed=5))
    n_maskable = patch.provenance.n_maskable
    mix = RandomShare(frozenset(pair.names), 1.3 * len(patch) / n_maskable, seed=5)
    for name, indices in patch.mask.indices.items():
        taken = mix.select(name, pair.base.read(name))
        assert take(taken, torch.tensor(indices)).all()
    other = dataclasses.replace(mix, seed=6)
    shares = [take(other.select(name, pair.base.read(name)), torch.tensor(patch.mask[name])) for name in patch.mask]
    assert torch.cat(shares).float().mean() < 0.5


WALK = {0.1: 0.5, 0.2: 0.7, 0.3: 0.6, 0.4: 0.85, 0.5: 0.8}


@pytest.mark.parametrize(
    ("target", "first", "nearest", "asked"),
    [
        (0.8, 0.4, 0.4, 4),
        (0.75, 0.4, 0.2, 4),  # .70 is nearer than .85
        (0.7, 0.2, 0.2, 2),
        (0.55, 0.2, 0.1, 2),
        (0.4, 0.1, 0.1, 1),
        (0.9, 0.4, 0.4, 5),  # none reaches it
    ],
)
def test_the_walk_stops_where_the_target_is_reached(target: float, first: float, nearest: float, asked: int) -> None:
    for wanted, options in ((first, {}), (nearest, {"nearest": True})):
        seen: list[float] = []
        match = match_accuracy(list(WALK), lambda x, seen=seen: seen.append(x) or WALK[x], target, **options)  # type: ignore[misc]
        assert match == Match(wanted, WALK[wanted])
        assert seen == list(WALK)[:asked]


@settings(derandomize=True)
@given(st.lists(st.sampled_from([0.2, 0.4, 0.6, 0.8]), min_size=1, max_size=9), st.sampled_from([0.3, 0.6, 0.9]))
def test_the_match_is_the_smallest_of_the_nearest(accuracies: list[float], target: float) -> None:
    match = match_accuracy(range(len(accuracies)), lambda x: accuracies[int(x)], target, nearest=True)
    walked = accuracies[: next((i for i, a in enumerate(accuracies) if a >= target), len(accuracies)) + 1]
    gaps = [abs(a - target) for a in walked]
    assert match.setting == gaps.index(min(gaps))
