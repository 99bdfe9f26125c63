from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, BertForSequenceClassification

from graft.errors import PatchMismatchError
from graft.evaluate.evaluation import evaluate_task
from graft.evaluate.necessity import cut_removal
from graft.localize.localization import localize_skill
from graft.localize.movement import diff_checkpoints
from graft.patch.live import apply_patch
from graft.patch.mask import Mask
from graft.specs.localize import LocalizeSpec
from graft.tasks.task import Task
from graft.tensors.pair import CheckpointPair
from tests.checkpoints import bits_of, changed_mask, nudged, save_model, small_bert, small_classifier


def test_taking_out_every_change_gives_the_base(base: Path, tuned: Path, task: Task) -> None:
    removal = cut_removal(base, tuned, diff_checkpoints(base, tuned).mask)
    model = AutoModel.from_pretrained(tuned)
    before = bits_of(model)
    with apply_patch(model, removal):
        assert bits_of(model) == bits_of(AutoModel.from_pretrained(base))
    assert bits_of(model) == before
    assert evaluate_task(tuned, task, patches=(removal,)) == evaluate_task(base, task)
    with pytest.raises(PatchMismatchError, match=r"are not the base's"):  # it belongs to the tuned model alone
        apply_patch(AutoModel.from_pretrained(base), removal)


def test_graft_and_removal_share_the_region_and_swap_the_values(base: Path, tuned: Path) -> None:
    patch = localize_skill(base, tuned, None, LocalizeSpec("magnitude", density=0.03))
    removal = cut_removal(base, tuned, patch.mask)
    assert removal.mask == patch.mask
    pair = CheckpointPair.open(base, tuned)
    for name in patch.mask:
        start, end = (tensor.flatten()[torch.tensor(patch.mask[name])] for tensor in pair.read(name))
        assert torch.equal(removal.values[name], start)
        assert torch.equal(patch.values[name], end)


def test_the_region_of_the_largest_movements_is_missed_more_than_a_random_one(
    base: Path, tuned: Path, task: Task
) -> None:
    methods = ("magnitude", "random")
    specs = [LocalizeSpec(name, density=0.2, scope="all") for name in methods]  # type: ignore[arg-type]
    patches = [localize_skill(base, tuned, None, spec) for spec in specs]
    reports = [evaluate_task(tuned, task, patches=(cut_removal(base, tuned, patch.mask),)) for patch in patches]
    whole = evaluate_task(tuned, task)
    assert whole["accuracy"] - reports[1]["accuracy"] < 0.1  # tuning survives the loss of any fifth of the weights
    assert whole["accuracy"] - reports[0]["accuracy"] > 0.2


def test_names_of_the_tuned_model_are_used_and_its_head_stays(tmp_path: Path) -> None:
    encoder = small_bert()
    base = save_model(encoder, tmp_path / "base")
    tuned = save_model(small_classifier(nudged(encoder)), tmp_path / "tuned")
    removal = cut_removal(base, tuned, changed_mask(CheckpointPair.open(base, tuned)))
    assert all(name.startswith("bert.") for name in removal.mask)
    assert not removal.dense
    model = BertForSequenceClassification.from_pretrained(tuned)
    head = model.classifier.weight.detach().clone()
    with apply_patch(model, removal):
        inside = dict(model.bert.named_parameters())
        assert all(torch.equal(inside[name], tensor) for name, tensor in encoder.named_parameters())
        assert torch.equal(model.classifier.weight, head)


def test_a_base_with_tensors_that_tuning_dropped_is_no_obstacle(base: Path, tuned: Path, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(tuned, add_pooling_layer=False)
    model.save_pretrained(tmp_path / "bare")
    pair = CheckpointPair.open(base, tmp_path / "bare")
    assert pair.absent  # the pooler
    name = next(iter(pair.names))
    removal = cut_removal(base, tmp_path / "bare", Mask.of({name: pair.base.spec(name)}, {name: np.arange(3)}))
    with apply_patch(model, removal) as grafted:
        assert grafted.k == 3
