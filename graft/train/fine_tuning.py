"""Plain fine-tuning: the tuned checkpoint that a skill is localised in."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from graft.config import to_plain
from graft.errors import OutputError, TrainingError
from graft.localize.budget import resolve_budget
from graft.localize.changes import Changes
from graft.localize.movement import diff_checkpoints
from graft.outputs import new_folder, refuse_existing
from graft.parallel.sharded import gather_state, is_sharded
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.tasks.examples import Example
from graft.tasks.head import Head, quiet_transformers, spread_head
from graft.tasks.spec import TrainSpec
from graft.tasks.task import Task
from graft.tensors.location import locate
from graft.tensors.pair import CheckpointPair
from graft.tensors.scope import Scope
from graft.train.importance.consolidation_file import FILE, save_consolidation
from graft.train.localizable import configure_pull, configure_restart
from graft.train.protection.core import Core
from graft.train.record import RECORD, describe_settings, print_training, read_held, read_record
from graft.train.resume import TrainingState, state_folder
from graft.train.steps import Plan, Stepper


@dataclass(frozen=True)
class Epoch:
    """One pass over the training examples, or the part of it until training stopped.

    Attributes:
        loss: mean over its steps, nats.
        validation_accuracy: at its end.
    """

    loss: float
    validation_accuracy: float


@dataclass(frozen=True)
class TrainResult:
    """A finished fine-tuning.

    Attributes:
        path: the folder with the tuned checkpoint, its tokenizer and `graft_training.json`; `importance.safetensors`
            where it was recorded.
        epochs: what happened, in order.
        steps: taken; fewer than planned where `stop_at` was reached.
    """

    path: Path
    epochs: tuple[Epoch, ...]
    steps: int


def train_task(
    base: str | Path,
    task: Task,
    out: str | Path,
    *,
    config: TrainSpec | None = None,
    protect: Sequence[Patch | Mask] = (),
    unprotect: Sequence[Patch | Mask] = (),
    device: str = "auto",
    dtype: str = "auto",
    gradient_checkpointing: bool = False,
    parallel: str = "ddp",
    resume: bool = False,
    force: bool = False,
) -> TrainResult:
    """Fine-tune a base model on a task and save it as a folder.

    The folder appears only when training is done. Meanwhile the state after every epoch lies beside it in
    `OUT.resume`, so that an interrupted run can go on with `resume` and end in the same bits.

    Several processes all call this: updates are one process's up to rounding (`graft.train.distribution`).

    Args:
        base: a local folder, the embedded encoder or a Hub id.
        task: the task; its few shots are drawn by its own seed.
        out: the folder to make.
        config: how to train; the task's own block where absent.
        protect: core regions, which stay bitwise as they are: patches whose values, or whose base's values, the base
            holds, and masks.
        unprotect: coordinates to leave out of them.
        device, dtype, gradient_checkpointing: where and how, as in `open_head`.
        parallel: over several processes: the whole model on each ("ddp"), or shards of it ("fsdp", FSDP2).
        resume: go on from `OUT.resume`.
        force: replace an existing folder.

    Raises:
        TrainingError: the loss is not finite, or memory ran out; the last good state is kept for `resume`.
        PatchMismatchError: a region to protect does not fit the base.
        ProtectionError: a protected entry moved; checked after every epoch, before anything is written.
        OutputError, CheckpointError, ConfigError, DataError: nothing was written.
    """
    out, config = Path(out), config or task.spec.train
    seed = task.spec.seed if config.seed is None else config.seed
    refuse_existing(out, force=force)
    train, validation, located = task.train_examples(), task.validation_examples(), locate(base)
    core, stage = (asked := Core(protect, unprotect)), config
    where: dict[str, Any] = {"device": device, "dtype": dtype, "gradient_checkpointing": gradient_checkpointing}
    if config.localizable is not None:
        core, stage = _confine(base, task, out, config, asked, {**where, "parallel": parallel, "resume": resume})
    head = spread_head(located.path, task.spec, parallel=parallel, **where, seed=seed)
    plan = Plan(len(train), stage, seed)
    state = TrainingState(state_folder(out), _fingerprint(head, located.path, task, plan, core), head.ranks)
    stepper = Stepper.start(head, plan, located.path, core, read_held(config, located.path))
    epochs, steps = _run(stepper, train, validation, state if resume else state.cleared())
    record: dict[str, Any] = {"base": located.name, "task": task.describe(), "seed": seed, "steps": steps}
    record |= {"train": describe_settings(config, located.path), "epochs": list(map(dataclasses.asdict, epochs))}
    record |= {} if stepper.protection is None else {"protected": stepper.protection.describe()}
    _save(stepper, record, out, lambda: print_training(located.path, task, config, seed, dtype, asked.digest()), force)
    state.cleared()
    return TrainResult(out, tuple(epochs), steps)


def find_training(
    base: str | Path,
    task: Task,
    out: str | Path,
    *,
    config: TrainSpec | None = None,
    protect: Sequence[Patch | Mask] = (),
    unprotect: Sequence[Patch | Mask] = (),
    dtype: str = "auto",
) -> TrainResult | None:
    """The finished training in a folder, where `train_task` of the same arguments made it; else None.

    Its record must hold the same print (`graft.train.record`): the same base, examples, settings, seed and core.

    Raises:
        CheckpointError, DataError: the base or the task cannot be read.
    """
    out = Path(out)
    config = config or task.spec.train
    seed = task.spec.seed if config.seed is None else config.seed
    record, core = read_record(out), Core(protect, unprotect).digest()
    if "print" not in record or record["print"] != print_training(locate(base).path, task, config, seed, dtype, core):
        return None
    return TrainResult(out, tuple(Epoch(**epoch) for epoch in record["epochs"]), record["steps"])


def _confine(
    base: str | Path, task: Task, out: Path, config: TrainSpec, core: Core, where: dict[str, Any]
) -> tuple[Core, TrainSpec]:
    """All but the weights that a first training with a pull moves most, and how to train these.

    The first training stays beside the output until that is there.
    """
    assert config.localizable is not None
    pulled, pull = _pulled_folder(out), configure_pull(config, config.localizable)
    kept: dict[str, Any] = {"config": pull, "protect": core.keep, "unprotect": core.without}
    if find_training(base, task, pulled, **kept, dtype=where["dtype"]) is None:
        train_task(base, task, pulled, **kept, **where, force=True)
    pair = CheckpointPair.open(locate(base).path, pulled)
    names = [name for name in Scope(config.scope).names(pair.base) if name in pair.names]
    k = resolve_budget(pair.base.n_parameters, config.localizable.density, None)
    moved = sum(Changes(pair, names).counts.values())  # the pull may leave fewer than k
    mask = diff_checkpoints(base, pulled, budget=min(k, moved), scope=config.scope).mask
    return Core(only=mask, names=pair.base.names), configure_restart(config, config.localizable)


def _pulled_folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.pulled")


def _fingerprint(head: Head, base: Path, task: Task, plan: Plan, core: Core) -> str:
    """What the weights depend on; it stays on this machine, so that it may name paths."""
    asked = dataclasses.replace(task.spec, train=plan.config, ood={})
    settings = describe_settings(plan.config, base)
    parts = [str(base.resolve()), str(head.model.dtype), to_plain(asked), to_plain(plan), settings, core.digest()]
    return json.dumps(parts, sort_keys=True)


def _save(stepper: Stepper, record: dict[str, Any], out: Path, find_print: Callable[[], str], force: bool) -> None:
    """Make the folder; over several processes the first does, with what the others gave."""
    head = stepper.head
    weights = gather_state(head.model, head.ranks) if is_sharded(head.model) else None
    if head.ranks.is_first:
        record["print"] = find_print()
        with new_folder(out, force=force) as folder:
            _save_trained(stepper, folder, out, weights)
            (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(_pulled_folder(out), ignore_errors=True)


def _save_trained(stepper: Stepper, folder: Path, out: Path, weights: dict[str, torch.Tensor] | None) -> None:
    """Weights and tokenizer, and what was recorded."""
    from safetensors import SafetensorError

    head, record = stepper.head, stepper.plan.config.record

    try:
        with quiet_transformers():
            head.model.save_pretrained(folder, state_dict=weights)
            head.tokenizer.save_pretrained(folder)
    except SafetensorError as error:  # its own kind, where Python would raise OSError
        raise OutputError(f"{out}: cannot be written ({error})") from error
    if stepper.recorder is not None and record is not None:
        save_consolidation(stepper.recorder.consolidate(record.share, record.xi), folder / FILE)


def _run(
    stepper: Stepper, train: Sequence[Example], validation: Sequence[Example], state: TrainingState
) -> tuple[list[Epoch], int]:
    """All epochs, or as many as it takes to reach `stop_at`, and the number of steps taken."""
    head, plan = stepper.head, stepper.plan
    torch.manual_seed(plan.seed + head.ranks.rank)  # of dropout
    epochs = [Epoch(*figures) for figures in state.load(head.model, stepper.optimizer, stepper.recorder)]
    done, steps = len(epochs), 0
    with tqdm(initial=done, total=plan.epochs, desc="train", unit="epoch", disable=None) as bar:
        for number in range(done, plan.epochs):
            epoch, steps = _train_epoch(stepper, train, validation, number)
            epochs.append(epoch)
            if stepper.protection is not None:
                stepper.protection.check()
            bar.set_postfix(loss=f"{epoch.loss:.3f}", validation=f"{epoch.validation_accuracy:.3f}")
            bar.update()
            if plan.reaches(epoch.validation_accuracy):
                break
            if number + 1 < plan.epochs:
                figures = [dataclasses.astuple(epoch) for epoch in epochs]
                state.save(head.model, stepper.optimizer, figures, stepper.recorder)
    return epochs, steps


def _train_epoch(
    stepper: Stepper, train: Sequence[Example], validation: Sequence[Example], number: int
) -> tuple[Epoch, int]:
    """One epoch, broken off at a check that reaches `stop_at`, and the number of steps taken since the start."""
    stepper.head.model.train()
    plan, losses, steps = stepper.plan, [], 0
    for step, positions in tqdm(plan.batches(number), desc="epoch", unit="step", disable=None, leave=False):
        losses.append(stepper.take([train[i] for i in positions], step))
        steps = step + 1
        if plan.checks_after(steps) and plan.reaches(accuracy := _accuracy(stepper.head, validation)):
            return Epoch(sum(losses) / len(losses), accuracy), steps
    return Epoch(sum(losses) / len(losses), _accuracy(stepper.head, validation)), steps


def _accuracy(head: Head, examples: Sequence[Example]) -> float:
    share = head.accuracy(examples, label="validation")
    if math.isnan(share):  # the last step can have gone astray without a loss that shows it
        raise TrainingError(
            "the model's outputs are not finite: lower train.lr; the last good epoch is kept for --resume"
        )
    return share
