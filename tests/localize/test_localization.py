from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from graft.errors import BudgetError, CheckpointError, ConfigError, MismatchError
from graft.localize.changes import Changes
from graft.localize.localization import localize_skill
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import patch_bytes, save_patch
from graft.patch.live import apply_patch
from graft.patch.skill_patch import Patch
from graft.specs.head import HeadSpec
from graft.specs.localize import LocalizeSpec
from graft.tasks.head import open_head
from graft.tasks.task import Task
from graft.tensors.pair import CheckpointPair
from graft.tensors.scope import layer_of
from graft.train.fine_tuning import train_task
from tests.checkpoints import bits_of, equal_patches, equal_tensors, write_single
from tests.models import copy_with, toy_examples

EXAMPLES = toy_examples(30)


def cut(base: Path, tuned: Path, task: Task | None, method: str = "attribution", **more: Any) -> Patch:
    return localize_skill(base, tuned, task, LocalizeSpec(method, **{"points": 2, **more}))  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["attribution", "taylor", "magnitude", "random"])
@pytest.mark.parametrize("allocation", ["global", "per-tensor", "per-layer"])
def test_exactly_the_budget_within_the_scope_and_only_what_changed(
    method: str, allocation: str, base: Path, tuned: Path, task: Task
) -> None:
    patch = cut(base, tuned, task, method, budget=777, allocation=allocation)
    pair = CheckpointPair.open(base, tuned)
    changed = Changes(pair, pair.base.parameters).counts
    assert len(patch) == 777
    assert all(".layer." in name for name in patch.mask)
    assert all(patch.mask[name].size <= changed[name] for name in patch.mask)
    assert all(pair.read_delta(name)[1].numpy()[patch.mask[name]].all() for name in patch.mask)
    assert (len({layer_of(name) for name in patch.mask}) == 2) or allocation == "global"


def test_a_density_is_of_all_parameters(base: Path, tuned: Path) -> None:
    n = sum(p.numel() for p in open_head(base, Task.load(base.parent / "toy" / "task.yaml").spec).model.parameters())
    patch = cut(base, tuned, None, "magnitude", density=0.01)
    assert len(patch) == int(0.01 * n + 0.5)
    assert patch.provenance.base.n_parameters == n
    assert patch.provenance.n_maskable < n


def test_equal_movements_at_the_boundary_go_by_tensor_then_index(tmp_path: Path) -> None:
    before = {f"layers.{i}.w": torch.zeros(10_000) for i in range(3)}
    after = {name: tensor + 0.5 for name, tensor in before.items()}
    after["layers.2.w"][9_999] = -4.0
    base, tuned = write_single(tmp_path / "base", before), write_single(tmp_path / "tuned", after)
    mask = cut(base, tuned, None, "magnitude", budget=15_000).mask
    assert {name: mask[name].size for name in mask} == {"layers.0.w": 10_000, "layers.1.w": 4_999, "layers.2.w": 1}
    assert mask["layers.1.w"].tolist() == list(range(4_999))
    assert mask["layers.2.w"].tolist() == [9_999]


@pytest.mark.parametrize("method", ["attribution", "random"])
def test_the_same_inputs_give_the_same_patch(method: str, base: Path, tuned: Path, task: Task) -> None:
    first, again = (cut(base, tuned, task, method, budget=200) for _ in range(2))
    assert equal_patches(first, again)
    other = cut(base, tuned, task, method, budget=200, seed=1)
    assert (first.mask == other.mask) is (method == "attribution")  # in fp32 its path draws nothing


def test_low_precision_end_to_end(base: Path, tuned: Path, task: Task, tmp_path: Path) -> None:
    low = [copy_with(folder, tmp_path / folder.name, lambda *_: None, torch.bfloat16) for folder in (base, tuned)]
    first, again = (cut(low[0], low[1], task, budget=200) for _ in range(2))
    assert equal_patches(first, again)
    assert {spec.dtype for spec in first.mask.specs.values()} == {"BF16"}
    assert first.mask.jaccard(cut(base, tuned, task, budget=200).mask) > 0.3


def test_the_patch_says_where_it_came_from_and_not_on_what_machine(base: Path, tuned: Path, task: Task) -> None:
    patch = cut(base, tuned, task, budget=50, scope="all")
    origin = patch.provenance
    assert (origin.base.name, origin.scope, origin.n_maskable) == ("base", "all", origin.base.n_parameters)
    assert origin.method["method"] == "attribution"
    assert origin.method["points"] == 2
    assert origin.task is not None
    assert origin.task["labels"] == ["sad", "glad"]
    for trace in (str(base.parent), "/tmp", "root"):
        assert trace.encode() not in patch_bytes(patch)


@pytest.fixture(scope="module")
def classified(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Task]:
    """The base tuned with a classification layer of its own."""
    task = Task.load(shelf / "toy" / "task.yaml", ("train.epochs=2",))
    task = dataclasses.replace(task, spec=dataclasses.replace(task.spec, head=HeadSpec("classifier")))
    return train_task(shelf / "base", task, tmp_path_factory.mktemp("classified") / "out").path, task


def test_a_classifier_travels_whole_in_the_patch(base: Path, classified: tuple[Path, Task], tmp_path: Path) -> None:
    tuned, task = classified
    patch = localize_skill(base, tuned, task, LocalizeSpec(budget=100, points=1))
    assert set(patch.dense) == {"classifier.weight", "classifier.bias"}
    assert len(patch) == 100
    assert patch.provenance.task is not None
    assert patch.provenance.task["head"]["architecture"] == "BertForSequenceClassification"
    save_patch(patch, tmp_path / "p")
    trained, fresh = open_head(tuned, task.spec), open_head(base, task.spec, seed=9)
    before, own = bits_of(fresh.model), fresh.predict(EXAMPLES)
    with apply_patch(fresh.model, load_patch(tmp_path / "p")):
        weight = dict(fresh.model.named_parameters())["classifier.weight"]
        assert equal_tensors({"w": weight.detach()}, {"w": trained.model.classifier.weight.detach()})
        assert not torch.allclose(fresh.predict(EXAMPLES), own, atol=1e-2)
    assert bits_of(fresh.model) == before


def test_gradients_are_taken_with_the_tuned_classifier(base: Path, classified: tuple[Path, Task]) -> None:
    tuned, task = classified
    every = dataclasses.replace(task, spec=dataclasses.replace(task.spec, shots=None))
    masks = [  # a head drawn anew would differ from seed to seed
        localize_skill(base, tuned, every.with_seed(seed), LocalizeSpec(budget=100, points=1)).mask for seed in (0, 1)
    ]
    assert masks[0].jaccard(masks[1]) > 0.95


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod."])
def test_the_tuned_classifier_is_found_under_a_wrapper_s_name(
    wrapper: str, base: Path, classified: tuple[Path, Task], tmp_path: Path
) -> None:
    tuned, task = classified
    wrapped = Path(shutil.copytree(tuned, tmp_path / "wrapped"))
    tensors = {wrapper + name: tensor for name, tensor in load_file(tuned / "model.safetensors").items()}
    save_file(tensors, wrapped / "model.safetensors", {"format": "pt"})
    config = LocalizeSpec(budget=100, points=1)
    masks = [localize_skill(base, folder, task, config).mask for folder in (tuned, wrapped)]
    assert masks[0] == masks[1]


def test_what_cannot_be_localized_is_refused(base: Path, tuned: Path, task: Task, tmp_path: Path) -> None:
    assert len(cut(base, tuned, task, budget=1)) == 1
    with pytest.raises(BudgetError, match=r"base and tuned checkpoints are equal in scope"):
        cut(base, base, task, budget=1)
    with pytest.raises(BudgetError, match=r"a budget of 10,000,000 entries, but only .* in scope changed"):
        cut(base, tuned, task, budget=10_000_000)
    with pytest.raises(BudgetError, match=r"method 'attribution' needs a task's data"):
        cut(base, tuned, None, budget=1)
    with pytest.raises(ConfigError, match=r"scope 'nothing' holds no tensor of base; choose from layers, emb"):
        cut(base, tuned, task, budget=1, scope="nothing")
    with pytest.raises(ConfigError, match=r"scope '\(': not a regular expression"):
        cut(base, tuned, task, budget=1, scope="(")
    holed = copy_with(tuned, tmp_path / "nan", lambda _, w: w.view(-1)[:1].fill_(float("nan")))
    with pytest.raises(CheckpointError, match=r"nan: tensor '.*layer.* holds NaN or infinite values"):
        cut(base, holed, task, budget=1)
    other = write_single(tmp_path / "other", {"layers.0.w": torch.zeros(3)})
    with pytest.raises(MismatchError, match=r"other is of another architecture than base: it lacks tensor"):
        cut(base, other, task, budget=1)


def test_an_unknown_kind_of_model_can_still_be_compared(tmp_path: Path) -> None:
    config = {"model_type": "of_tomorrow", "architectures": ["OfTomorrow"]}
    before, after = {"layers.0.w": torch.zeros(9)}, {"layers.0.w": torch.ones(9), "score.weight": torch.ones(2, 2)}
    base = write_single(tmp_path / "base", before, config)
    patch = cut(base, write_single(tmp_path / "tuned", after, config), None, "magnitude", budget=4)
    assert patch.mask["layers.0.w"].tolist() == [0, 1, 2, 3]
    assert set(patch.dense) == {"score.weight"}
