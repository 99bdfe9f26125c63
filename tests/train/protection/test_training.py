"""What `train_task` protects."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from graft.errors import PatchMismatchError, ProtectionError, TrainingError
from graft.localize.diff import diff_checkpoints
from graft.memory.train import plan_training
from graft.patch.mask import Mask
from graft.patch.provenance import Provenance
from graft.patch.skill_patch import Patch
from graft.specs.localizable import LocalizableSpec
from graft.specs.train import TrainSpec
from graft.tasks.head import open_head
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import as_bits
from graft.train.fine_tuning import find_training, train_task
from graft.train.protection.protected_set import ProtectedSet
from graft.train.schedule import TrainingSchedule
from graft.train.stepper import Stepper
from tests.models import copy_with, write_causal, write_task


def draw_mask(base: Checkpoint, share: float = 0.1, seed: int = 0) -> Mask:
    """A share of some tensors, nothing of others."""
    generator = np.random.default_rng(seed)
    names = [name for name in base.parameters if base.spec(name).numel > 50][::2]
    indices = {name: generator.choice(n := base.spec(name).numel, int(share * n) + 1, replace=False) for name in names}
    return Mask.of({name: base.spec(name) for name in names}, indices)


def changed_at(base: Checkpoint, tensors: Any, mask: Mask, *, outside: bool = False) -> int:
    """Number of coordinates at (or outside) a mask whose bits are not the base's."""
    count = 0
    for name, tensor in tensors:
        changed = (as_bits(tensor.detach()) != as_bits(base.read(name))).flatten()
        at = torch.zeros_like(changed)
        at[torch.tensor(mask[name])] = True
        count += int((changed & (at ^ outside)).sum())
    return count


def tensors_of(folder: Path) -> list[tuple[str, torch.Tensor]]:
    checkpoint = Checkpoint.open(folder)
    return [(name, checkpoint.read(name)) for name in checkpoint.parameters]


@pytest.mark.parametrize(
    ("share", "changes"),
    [
        (0.001, {}),
        (0.4, {"optimizer": "adamw", "lr": 1e-2, "weight_decay": 0.1}),
        (0.95, {"optimizer": "adamw", "lr": 1e-2, "weight_decay": 0.1}),
        (0.95, {"l1": 1e-4}),
    ],
)
def test_a_masks_coordinates_keep_their_bits(
    share: float, changes: dict[str, Any], base: Path, task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = Checkpoint.open(base)
    mask, config = draw_mask(checkpoint, share), dataclasses.replace(task.spec.train, epochs=1, **changes)
    free = train_task(base, task, tmp_path / "free", config=config).path
    assert changed_at(checkpoint, tensors_of(free), mask) > 0.4 * len(mask)  # the control
    capsys.readouterr()
    kept = train_task(base, task, tmp_path / "kept", config=config, protect=[mask]).path
    assert changed_at(checkpoint, tensors_of(kept), mask) == 0
    assert changed_at(checkpoint, tensors_of(kept), mask, outside=True) > 1000
    assert f"protected: {len(mask):,} entries (" in capsys.readouterr().err


@pytest.mark.parametrize(("optimizer", "decay"), [("sgd", 0.0), ("sgd", 0.1), ("adamw", 0.1)])
def test_only_the_mask_moves_whatever_the_optimizer(base: Path, task: Task, optimizer: Any, decay: float) -> None:
    checkpoint, config = Checkpoint.open(base), TrainSpec(optimizer, lr=1e-2, weight_decay=decay, steps=6)
    mask, examples = draw_mask(checkpoint), task.train_examples()
    free, confined = open_head(base, task.spec), open_head(base, task.spec)
    schedule = TrainingSchedule((len(examples),), config, seed=0)
    for head, core in ((free, None), (confined, ProtectedSet(train_only=mask, names=checkpoint.names))):
        stepper = Stepper.start(head, schedule, base, core)
        for step in range(6):
            stepper.take(head, examples[8 * step : 8 * step + 8], step)
    assert changed_at(checkpoint, free.model.named_parameters(), mask, outside=True) > 1000  # the control
    assert changed_at(checkpoint, confined.model.named_parameters(), mask, outside=True) == 0
    assert changed_at(checkpoint, confined.model.named_parameters(), mask) > 0.5 * len(mask)


def test_going_on_keeps_the_core_and_ends_in_the_same_bits(
    base: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint.open(base)
    mask = draw_mask(checkpoint, 0.95)
    adamw = {"optimizer": "adamw", "lr": 1e-2, "weight_decay": 0.1, "epochs": 2}
    given: dict[str, Any] = {"config": dataclasses.replace(task.spec.train, **adamw)}
    whole = train_task(base, task, tmp_path / "whole", protect=[mask], **given).path
    taken, take = iter(range(20)), Stepper.take

    def broken(*arguments: Any) -> float:
        if next(taken, None) is None:
            raise KeyboardInterrupt
        return take(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Stepper, "take", broken)
        with pytest.raises(KeyboardInterrupt):
            train_task(base, task, tmp_path / "out", protect=[mask], **given)
    part = draw_mask(checkpoint, 0.5)
    others: tuple[dict[str, Any], ...] = ({}, {"protect": [part]}, {"protect": [mask], "unprotect": [part]})
    for other in others:
        with pytest.raises(TrainingError, match=r"belongs to another training: protected"):
            train_task(base, task, tmp_path / "out", resume=True, **other, **given)
    out = train_task(base, task, tmp_path / "out", protect=[mask], resume=True, **given).path
    pairs = zip(tensors_of(whole), tensors_of(out), strict=True)
    assert all(torch.equal(as_bits(left), as_bits(right)) for (_, left), (_, right) in pairs)
    assert changed_at(checkpoint, tensors_of(out), mask) == 0
    assert find_training(base, task, out, protect=[mask], **given) is not None
    assert find_training(base, task, out, protect=[part], **given) is None
    assert find_training(base, task, out, **given) is None


def test_a_core_that_moved_leaves_no_output(
    base: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask, take = draw_mask(Checkpoint.open(base), 0.4), Stepper.take

    def tampering(stepper: Stepper, *arguments: Any) -> float:
        loss = take(stepper, *arguments)
        next(w for w in stepper.head.model.parameters() if w.ndim == 2).data.add_(1e-3)
        return loss

    monkeypatch.setattr(Stepper, "take", tampering)
    with pytest.raises(ProtectionError, match=r"tensor 'embeddings.word_embeddings.weight': .* do not hold their bits"):
        train_task(base, task, tmp_path / "out", protect=[mask])
    assert list(tmp_path.iterdir()) == []


def test_localizable_training_stays_out_of_the_core(base: Path, task: Task, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(base)
    mask, few = draw_mask(checkpoint, 0.5), LocalizableSpec(density=0.05, proximal_epochs=1, epochs=1, lr=1e-2)
    config = dataclasses.replace(task.spec.train, localizable=few)
    free = train_task(base, task, tmp_path / "free", config=config).path
    kept = train_task(base, task, tmp_path / "kept", config=config, protect=[mask]).path
    assert changed_at(checkpoint, tensors_of(free), mask) > 100  # the control
    assert changed_at(checkpoint, tensors_of(kept), mask) == 0
    assert changed_at(checkpoint, tensors_of(kept), mask, outside=True) > 100


FEW = LocalizableSpec(density=0.02, support="gradient", lr=3e-2, epochs=2)


def train_few(base: Path, task: Task, out: Path, **more: Any) -> Path:
    config = TrainSpec(scope=more.pop("scope", "layers"), localizable=FEW)
    return train_task(base, task, out, config=config, **more).path


@pytest.mark.parametrize("prefix", ["", "bert.", "module."])
def test_few_weights_leave_out_what_a_mask_protects_under_any_of_its_names(
    prefix: str, base: Path, task: Task, tmp_path: Path
) -> None:
    checkpoint = Checkpoint.open(base)
    free = diff_checkpoints(base, train_few(base, task, tmp_path / "free")).mask
    assert len(free) > 100
    specs = {f"{prefix}{name}": checkpoint.spec(name) for name in free}
    core = Mask.of(specs, {f"{prefix}{name}": free[name] for name in free})
    kept = diff_checkpoints(base, train_few(base, task, tmp_path / "kept", protect=[core])).mask
    assert len(kept) > 100
    assert not kept & free


def test_few_weights_are_refused_beside_a_patch_of_another_base(base: Path, task: Task, tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(base)
    name = next(name for name in checkpoint.parameters if "layer" in name)
    mask = Mask.of({name: checkpoint.spec(name)}, {name: [0, 1, 2]})
    strange = Patch(mask, {name: torch.full((3,), 7.0)}, {name: "0" * 16}, Provenance())
    with pytest.raises(PatchMismatchError, match="a patch to protect is neither in BertModel nor absent from it"):
        train_few(base, task, tmp_path / "out", protect=[strange])
    wrong = Mask.of({"no.such": checkpoint.spec(name)}, {"no.such": [0]})
    with pytest.raises(PatchMismatchError, match=r"tensor 'no.such': the model has no such tensor"):
        train_few(base, task, tmp_path / "out", protect=[wrong])


@pytest.mark.parametrize("listed", ["model.embed_tokens.weight", "lm_head.weight"])
def test_a_tied_weight_is_one_of_few_and_protected_under_either_name(listed: str, tmp_path: Path) -> None:
    base, embedding = write_causal(tmp_path / "base", steps=2), "model.embed_tokens.weight"
    tensors = load_file(base / "model.safetensors")
    tensors[listed] = tensors.pop(embedding)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    task = Task.load(write_task(tmp_path / "task", head={"kind": "lm"}, labels=[], ood={}))

    def changed(name: str, **more: Any) -> int:
        saved = load_file(train_few(base, task, tmp_path / name, scope="all", **more) / "model.safetensors")
        (weight,) = (saved[key] for key in (embedding, "lm_head.weight") if key in saved)
        return int((weight != tensors[listed]).sum())

    k = int(FEW.density * Checkpoint.open(base).n_parameters + 0.5)
    assert 0 < changed("free") <= k
    for name in (embedding, "lm_head.weight"):
        assert changed(f"kept {name}", protect=[Mask.full({name: Checkpoint.open(base).spec(listed)})]) == 0


def test_a_mask_whose_values_loading_would_round_is_refused(base: Path, task: Task, tmp_path: Path) -> None:
    mixed = copy_with(base, tmp_path / "mixed", lambda *_: None, torch.bfloat16)
    tensors = load_file(mixed / "model.safetensors")
    wide, narrow = (f"encoder.layer.{i}.attention.self.query.weight" for i in (0, 1))
    tensors[wide] = torch.randn(tensors[wide].shape)
    save_file(tensors, mixed / "model.safetensors", metadata={"format": "pt"})
    specs = Checkpoint.open(mixed).spec
    plain, said = TrainSpec(epochs=1), r"stored in torch.float32, and loaded, trained and saved in torch.bfloat16"
    for config in (plain, TrainSpec(scope="layers", localizable=FEW)):
        with pytest.raises(PatchMismatchError, match=said):
            train_task(mixed, task, tmp_path / "out", config=config, protect=[Mask.full({wide: specs(wide)})])
    made = train_task(mixed, task, tmp_path / "out", config=plain, protect=[Mask.full({narrow: specs(narrow)})])
    assert torch.equal(Checkpoint.open(made.path).read(narrow), tensors[narrow])
    wider = {"config": plain, "protect": [Mask.full({wide: specs(wide)})], "dtype": "float32"}
    assert torch.equal(
        Checkpoint.open(train_task(mixed, task, tmp_path / "wide", **wider).path).read(wide), tensors[wide]
    )


def test_a_patchs_classifier_head_is_frozen_until_other_labels_need_a_new_one(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    block: dict[str, Any] = {"lr": 0.05, "epochs": 1, "batch_size": 8}
    task = Task.load(write_task(tmp_path / "toy", head={"kind": "classifier"}, train=block))
    tuned = train_task(base, task, tmp_path / "tuned", config=TrainSpec(**block, scope="layers")).path
    patch = diff_checkpoints(base, tuned)
    heads = [name for name in patch.dense if name.startswith("classifier")]
    assert heads == ["classifier.bias", "classifier.weight"]

    def moved(name: str, labels: list[str] | None = None, **more: Any) -> set[str]:
        more_labels = {} if labels is None else {"labels": labels}
        new = Task.load(write_task(tmp_path / name, head={"kind": "classifier"}, **more_labels))
        out = train_task(tuned, new, tmp_path / f"{name} out", config=TrainSpec(**block), **more).path
        before, after = Checkpoint.open(tuned), Checkpoint.open(out)
        return {name for name in heads if not torch.equal(before.read(name), after.read(name))}

    assert moved("free") == set(heads)  # the control
    capsys.readouterr()
    assert moved("kept", protect=[patch]) == set()
    assert "skill values" in (said := capsys.readouterr().err)
    assert "left free" not in said
    whole = Mask.full({name: Checkpoint.open(tuned).spec(name) for name in heads})
    assert moved("unprotected", protect=[patch], unprotect=[whole]) == set(heads)
    assert moved("renewed", labels=["dull", "bright"], protect=[patch]) == set(heads)
    assert "left free: classifier.bias (of other values in the model)" in capsys.readouterr().err
    states = []
    for core in (patch.mask, patch):
        plan = plan_training(tuned, task, TrainSpec(**block, optimizer="adamw"), protect=[core])
        states.append(next(part.bytes for part in plan.parts if part.what == "optimizer state"))
    assert states[1] < states[0]
