"""Protection within transformers' Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

import graft
from graft.errors import PatchMismatchError, ProtectionError
from graft.files.tensor_spec import TensorSpec
from graft.patch.mask import Mask
from graft.tensors.dtypes import as_bits, spec_of
from tests.checkpoints import small_llama

Rows = list[dict[str, torch.Tensor]]


def rows() -> Rows:
    ids = torch.randint(0, 16, (24, 6), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": row} for row in ids]


def mask_of(model: torch.nn.Module, part: slice) -> Mask:
    weights = dict(model.named_parameters())
    return Mask.of(
        {name: spec_of(w) for name, w in weights.items()},
        {name: range(w.numel())[part] for name, w in weights.items()},
    )


def make_trainer(folder: Path, callbacks: list[Any], model: Any = None, **more: Any) -> Trainer:
    given = {"max_steps": 6, "learning_rate": 0.01, "weight_decay": 0.1, "max_grad_norm": 1.0, "seed": 0}
    given |= {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "save_strategy": "no"} | more
    arguments = TrainingArguments(str(folder), report_to=[], use_cpu=True, disable_tqdm=True, **given)
    return Trainer(model or small_llama(tied=True), arguments, train_dataset=rows(), callbacks=callbacks)


def bits(model: Any) -> dict[str, torch.Tensor]:
    return {name: as_bits(w.detach().clone()).flatten() for name, w in model.named_parameters()}


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], mask: Mask) -> int:
    return sum(int((before[name] != after[name])[torch.tensor(mask[name])].sum()) for name in mask)


@pytest.mark.parametrize("optim", ["adamw_torch", "adafactor"])
@pytest.mark.parametrize("part", [slice(None, None, 3), slice(5, None)], ids=["some", "most"])
def test_a_trainer_leaves_the_core_alone(
    optim: str, part: slice, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = bits(small_llama(tied=True))
    mask = mask_of(small_llama(tied=True), part)
    free, callback = make_trainer(tmp_path, [], optim=optim), graft.ProtectionCallback(mask)
    free.train()
    assert moved(before, bits(free.model), mask) > 0.6 * len(mask)  # the control
    kept = make_trainer(tmp_path, [callback], optim=optim)
    kept.train()
    assert moved(before, bits(kept.model), mask) == 0
    assert moved(before, bits(kept.model), mask.complement(mask.specs)) > 0
    assert f"protected: {len(mask):,} entries" in capsys.readouterr().err
    kept.train()  # released at the end, and put in force again


def test_going_on_from_a_checkpoint_keeps_the_core_and_ends_in_the_same_bits(tmp_path: Path) -> None:
    mask = mask_of(small_llama(tied=True), slice(5, None))
    saving = {"save_strategy": "steps", "save_steps": 3}
    whole = make_trainer(tmp_path / "whole", [graft.ProtectionCallback(mask)], **saving)
    whole.train()
    resumed = make_trainer(tmp_path / "whole", [graft.ProtectionCallback(mask)], **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert moved(bits(whole.model), bits(resumed.model), mask_of(whole.model, slice(None))) == 0
    make_trainer(tmp_path / "free", [], **saving).train()
    other = make_trainer(tmp_path / "free", [graft.ProtectionCallback(mask)], **saving)
    with pytest.raises(ProtectionError, match=r"must come from a training with the same protection"):
        other.train(resume_from_checkpoint=str(tmp_path / "free" / "checkpoint-3"))


def test_what_does_not_fit_is_refused_when_the_trainer_is_made(tmp_path: Path) -> None:
    mask = Mask.of({"elsewhere": TensorSpec("F32", (2,))}, {"elsewhere": [0]})
    with pytest.raises(PatchMismatchError, match=r"tensor 'elsewhere': the model has no such tensor"):
        make_trainer(tmp_path, [graft.ProtectionCallback(mask)])


def test_a_write_from_elsewhere_is_found_before_the_checkpoint_is_written(tmp_path: Path) -> None:
    mask = mask_of(small_llama(tied=True), slice(5, None))
    trainer = make_trainer(tmp_path, [graft.ProtectionCallback(mask)], save_strategy="steps", save_steps=2)

    def tamper(module: Any, *_: object) -> None:
        module.weight.data.mul_(1.5)

    assert trainer.model is not None
    trainer.model.model.embed_tokens.register_forward_hook(tamper)
    with pytest.raises(ProtectionError, match=r"'model.embed_tokens.weight': some protected entries do not hold"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint*"))


def test_a_training_that_breaks_off_within_a_step_leaves_the_core_and_can_go_on(tmp_path: Path) -> None:
    before = bits(small_llama(tied=True))
    mask = mask_of(small_llama(tied=True), slice(None, None, 3))
    write, calls = torch.Tensor.addcdiv_, []

    def addcdiv_(*given: Any, **more: Any) -> Any:
        calls.append(1)
        result = write(*given, **more)
        if len(calls) == 40:
            raise KeyboardInterrupt
        return result

    kinds: list[list[Any]] = [[], [graft.ProtectionCallback(mask)]]
    trainers = [make_trainer(tmp_path, callbacks, optim="adamw_torch") for callbacks in kinds]
    for trainer in trainers:
        calls.clear()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(torch.Tensor, "addcdiv_", addcdiv_)
            with pytest.raises(KeyboardInterrupt):
                trainer.train()
    assert moved(before, bits(trainers[0].model), mask) > 0.6 * len(mask)  # the control
    assert moved(before, bits(trainers[1].model), mask) == 0
    trainers[1].train()
    assert moved(before, bits(trainers[1].model), mask) == 0
