"""Fine-tuning of a base on one task or several: the tuned checkpoint in which a skill is localized."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graft.arguments import checked
from graft.errors import ConfigError, OutputError
from graft.files.claims import Claim, Output, claim_output
from graft.files.location import local_paths, locate
from graft.files.outputs import new_folder
from graft.files.training_manifest import MANIFEST
from graft.files.workplaces import drop_workplace, open_workplace, refuse_unmarked, workplace_of
from graft.localize.diff import find_core
from graft.parallel.sharded import gather_state, is_sharded
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.specs.runtime import Runtime
from graft.specs.train import TrainSpec
from graft.tasks.head import Head
from graft.tasks.loading import quiet_transformers
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.train.content import content_of_training, describe_settings, hash_content
from graft.train.epochs import Epoch, run_epochs
from graft.train.gradient_support import find_gradient_support
from graft.train.importance.importance_file import FILE, save_importance
from graft.train.localizable import Changes, check_density, configure_proximal, configure_restart, count_changes
from graft.train.manifest import find_manifest, read_importance, write_manifest
from graft.train.master_weights import products_of_shards
from graft.train.multitask_data import MultiTaskData, Tasks, list_tasks
from graft.train.protection.protected_set import ProtectedSet, refuse_rounding
from graft.train.schedule import TrainingSchedule
from graft.train.stepper import Stepper
from graft.train.training_state import TrainingState


@dataclass(frozen=True)
class TrainResult:
    """A finished fine-tuning.

    Attributes:
        path: the folder with the tuned checkpoint, its tokenizer and `graft_training.json`; `importance.safetensors`
            where it was recorded.
        epochs: in order.
        steps: taken; fewer than planned where `stop_at` was reached.
        changes: how many entries changed, where only few trained (`localizable`).
    """

    path: Path
    epochs: tuple[Epoch, ...]
    steps: int
    changes: Changes | None = None


@checked
def train_task(
    base: str | Path,
    task: Tasks,
    out: Output,
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
    """Fine-tune a base model on a task, or on several at once, and save it as a folder.

    The folder appears only when training is done. Meanwhile the state after every epoch lies beside it in
    `OUT.resume`, so that an interrupted run can go on with `resume` and end in the same bits.
    Several processes all call this: updates are one process's up to rounding (`graft.train.distribution`).

    Args:
        base: a local folder, the embedded encoder or a Hub id.
        task: its few shots are drawn by its own seed; of several, which share a head, every batch is of one.
        out: the folder to make.
        config: the train block; the (first) task's own where absent, as is the seed.
        protect: core regions, which stay bitwise as they are: patches whose values, or whose base's values, the base
            holds, and masks.
        unprotect: coordinates to leave out of them.
        device, dtype, gradient_checkpointing: where and how, as in `open_head`.
        parallel: over several processes: the whole model on each ("ddp"), or shards of it ("fsdp", FSDP2).
        resume: go on from the state beside it.
        force: replace an existing folder.

    Raises:
        BudgetError: `localizable` asks for no weight, or for more than may move.
        TrainingError: the loss is not finite, or memory ran out; the last good state is kept for `resume`.
        PatchMismatchError: a region to protect does not fit the base.
        ProtectionError: a protected entry moved; checked after every epoch, before anything is written.
        OutputError, CheckpointError, ConfigError, DataError: nothing was written.
    """
    tasks, located = list_tasks(task), locate(base)
    config, seed = resolve_settings(tasks, config)
    claim = _claim(out, force, [located.path, *(file for item in tasks for file in item.files)], config)
    runtime = Runtime(device, dtype, gradient_checkpointing, parallel)
    around = _Surroundings(base, tasks, claim.path, ProtectedSet(protect, unprotect), runtime, resume)
    return _train(around, config, seed, claim)


def find_training(
    base: str | Path,
    task: Tasks,
    out: str | Path,
    *,
    config: TrainSpec | None = None,
    protect: Sequence[Patch | Mask] = (),
    unprotect: Sequence[Patch | Mask] = (),
    dtype: str = "auto",
) -> TrainResult | None:
    """Find the finished training in a folder, where `train_task` of the same arguments made it; else None.

    Its manifest must hold the same content hash (`graft.train.content`): the same base, examples, settings, seed and
    core; and the folder's weights must be those that it was written with.

    Raises:
        CheckpointError, DataError: the base or the task cannot be read.
    """
    out, tasks = Path(out), list_tasks(task)
    config, seed = resolve_settings(tasks, config)
    if not (out / MANIFEST).is_file():
        return None  # without reading the base
    core = ProtectedSet(protect, unprotect).digest()
    content = content_of_training(locate(base).path, tasks, config, seed, dtype, core)
    manifest = find_manifest(out, hash_content(content))
    if manifest is None:
        return None
    changes = Changes(**manifest["changes"]) if "changes" in manifest else None
    return TrainResult(out, tuple(Epoch(**epoch) for epoch in manifest["epochs"]), manifest["steps"], changes)


def _claim(out: Output, force: bool, inputs: list[Path], config: TrainSpec) -> Claim:
    """Claim the folder to make, and refuse a workplace beside it that is not ours."""
    inputs += local_paths(config.regularize.importance) if config.regularize else []
    claim = claim_output(out, is_folder=True, force=force, inputs=inputs)
    refuse_unmarked(workplace_of(claim.path))
    return claim


def _describe(tasks: Sequence[Task]) -> dict[str, Any] | list[dict[str, Any]]:
    described = [task.describe() for task in tasks]
    return described[0] if len(tasks) == 1 else described


def resolve_settings(tasks: Sequence[Task], config: TrainSpec | None) -> tuple[TrainSpec, int]:
    """Return the train block, the (first) task's own where none is given, and the seed.

    Raises:
        ConfigError: there is no task.
    """
    if not tasks:
        raise ConfigError("there is no task to train on")
    config = config or tasks[0].spec.train
    return config, tasks[0].spec.seed if config.seed is None else config.seed


@dataclass(frozen=True)
class _Surroundings:
    """A training's surroundings, and those of one that it needs before it, in its output's workplace."""

    base: str | Path
    tasks: Sequence[Task]
    out: Path
    core: ProtectedSet
    runtime: Runtime
    resume: bool

    def train_before(self, name: str, config: TrainSpec) -> Path:
        """Train under a name; what an earlier try has finished of the same content is taken up."""
        folder = workplace_of(self.out) / name
        given: dict[str, Any] = {"protect": self.core.include, "unprotect": self.core.exclude}
        if found := find_training(self.base, self.tasks, folder, config=config, **given, dtype=self.runtime.dtype):
            return found.path
        config, seed = resolve_settings(self.tasks, config)
        with open_workplace(self.out):
            claim = claim_output(folder, is_folder=True, force=True)
            return _train(dataclasses.replace(self, out=folder), config, seed, claim).path


def _train(around: _Surroundings, config: TrainSpec, seed: int, claim: Claim) -> TrainResult:
    located, tasks, runtime = locate(around.base), around.tasks, around.runtime
    base, pulled = Checkpoint.open(located.path), _pull(around, config)
    products = products_of_shards(base, runtime, config.precision)
    data = MultiTaskData.open(located.path, tasks, runtime, seed, products)
    refuse_rounding(data.heads[0].model, base, around.core, products)
    core, stage = _confine(around, config, data, pulled)
    schedule, head = TrainingSchedule(data.sizes, stage, seed), data.heads[0]
    content = content_of_training(located.path, tasks, config, seed, runtime.dtype, around.core.digest())
    staged = {**content, "train": describe_settings(stage, located.path, runtime.dtype), "protected": core.digest()}
    staged |= {} if products is None else {"sharded masters": str(products)}  # their forward pass rounds otherwise
    state = TrainingState(around.out, staged, head.ranks)
    stepper = Stepper.start(head, schedule, located.path, core, read_importance(config, located.path))
    epochs, steps = run_epochs(stepper, data, state if around.resume else state.cleared())
    manifest = {"base": located.name, "task": _describe(tasks), "seed": seed, "steps": steps, "train": content["train"]}
    manifest |= {"epochs": list(map(dataclasses.asdict, epochs))}
    stepper.masters.round()
    changes = None
    if core.train_only is not None:
        changes = count_changes(head.model, base, core.train_only)
        manifest |= {"changes": dataclasses.asdict(changes)}
    _save(stepper, manifest, claim, hash_content(content))
    return TrainResult(around.out, tuple(epochs), steps, changes)


def _pull(around: _Surroundings, config: TrainSpec) -> Mask | None:
    """Find the weights that a first training with the L1 proximal step moves most, where they are found so.

    Its folder stays in the output's workplace until the output is there.
    """
    if (few := config.localizable) is None:
        return None
    check_density(Checkpoint.open(locate(around.base).path), config, around.core)
    if few.support != "pull":
        return None
    folder = around.train_before("proximal", configure_proximal(config, few))
    return find_core(around.base, folder, few.density, config.scope)  # fewer, where fewer moved


def _confine(
    around: _Surroundings, config: TrainSpec, data: MultiTaskData, pulled: Mask | None
) -> tuple[ProtectedSet, TrainSpec]:
    """Return what is held in a training, and how what is left trains: all as it says, unless only few weights train."""
    if (few := config.localizable) is None:
        return around.core, config
    around.core.matched_values(data.heads[0].model)  # refuses a patch of another base
    base = Checkpoint.open(locate(around.base).path)
    mask = find_gradient_support(data, base, config, few.density, around.core) if pulled is None else pulled
    return ProtectedSet(train_only=mask, names=base.names), configure_restart(config, few, len(mask))


def _save(stepper: Stepper, manifest: dict[str, Any], claim: Claim, content_hash: str) -> None:
    """Make the folder; of several processes the first does, after gathering the shards of all."""
    head = stepper.head
    weights = gather_state(head.model, head.ranks) if is_sharded(head.model) else None
    if head.ranks.is_first:
        manifest |= {} if stepper.protection is None else {"protected": stepper.protection.describe()}
        with new_folder(claim) as folder:
            _save_trained(stepper, folder, claim.path, weights)
            write_manifest(folder, manifest, content_hash)
        drop_workplace(claim.path)
    head.ranks.wait()


def _save_trained(stepper: Stepper, folder: Path, out: Path, weights: dict[str, torch.Tensor] | None) -> None:
    """Write weights and tokenizer, and the importance that was recorded."""
    record = stepper.schedule.config.record
    save_model(stepper.head, folder, out, weights)
    if stepper.recorder is not None and record is not None:
        save_importance(stepper.recorder.keep(record.share, record.xi), folder / FILE)


def save_model(head: Head, folder: Path, out: Path, weights: dict[str, torch.Tensor] | None = None) -> None:
    """Write weights, the model's own where none are given, and tokenizer into a folder that will become `out`.

    Raises:
        OutputError: the weights cannot be written.
    """
    from safetensors import SafetensorError

    try:
        with quiet_transformers():
            head.model.save_pretrained(folder, state_dict=weights)
            head.tokenizer.save_pretrained(folder)
    except SafetensorError as error:  # its own kind, where Python would raise OSError
        raise OutputError(f"{out}: cannot be written ({error})") from error
