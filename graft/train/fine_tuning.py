"""Fine-tuning of a base on one task or several: the tuned checkpoint in which a skill is localized."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graft.arguments import checked
from graft.errors import BudgetError, ConfigError, OutputError
from graft.files.claims import Claim, Output, claim_output
from graft.files.location import local_paths, locate
from graft.files.outputs import new_folder
from graft.files.workplaces import drop_workplace, open_workplace, refuse_unmarked, workplace_of
from graft.localize.budget import resolve_budget
from graft.localize.diff import diff_checkpoints, find_core
from graft.parallel.launch import find_ranks
from graft.parallel.sharded import gather_state, is_sharded
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.specs.runtime import Runtime
from graft.specs.search import SearchSpec
from graft.specs.train import TrainSpec
from graft.tasks.head import Head
from graft.tasks.loading import quiet_transformers
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.pair import CheckpointPair
from graft.train.content import content_of_training, describe_settings, hash_content
from graft.train.epochs import Epoch, run_epochs
from graft.train.importance.importance_file import FILE, save_importance
from graft.train.localizable import check_density, configure_proximal, configure_restart
from graft.train.manifest import MANIFEST, find_manifest, read_importance, read_manifest, write_manifest
from graft.train.multitask_data import MultiTaskData, Tasks, list_tasks
from graft.train.protection.protected_set import ProtectedSet, protected_entries
from graft.train.schedule import TrainingSchedule
from graft.train.search import Search, configure_few, configure_pulled, configure_rest, search_rate
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
        search: by which it was chosen among several; None where it was the only one.
    """

    path: Path
    epochs: tuple[Epoch, ...]
    steps: int
    search: Search | None = None

    @property
    def validation_accuracy(self) -> float:
        """Accuracy on validation at the end, 0 to 1."""
        return self.epochs[-1].validation_accuracy


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
        BudgetError: `localizable` or `search` asks for no weight, or for more than may move.
        TrainingError: the loss is not finite, or memory ran out; the last good state is kept for `resume`.
        PatchMismatchError: a region to protect does not fit the base.
        ProtectionError: a protected entry moved; checked after every epoch, before anything is written.
        OutputError, CheckpointError, ConfigError, DataError: nothing was written.
    """
    tasks, located = list_tasks(task), locate(base)
    config, seed = resolve_settings(tasks, config)
    claim = _claim(out, force, [located.path, *(file for item in tasks for file in item.files)], config)
    runtime = Runtime(device, dtype, gradient_checkpointing, parallel)
    inner = _Inner(base, tasks, claim.path, ProtectedSet(protect, unprotect), runtime, resume)
    return _search(inner, config, seed, claim) if config.search else _train(inner, config, seed, claim)


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
    search = Search.from_json(manifest["search"]) if "search" in manifest else None
    return TrainResult(out, tuple(Epoch(**epoch) for epoch in manifest["epochs"]), manifest["steps"], search)


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
class _Inner:
    """A training's surroundings, and those of the trainings that it needs within it, in its output's workplace."""

    base: str | Path
    tasks: Sequence[Task]
    out: Path
    core: ProtectedSet
    runtime: Runtime
    resume: bool

    def train(self, name: str, config: TrainSpec, pulled: Path | None = None) -> TrainResult:
        """Train within, under a name; what an earlier try has finished of the same content is taken up."""
        folder = workplace_of(self.out) / name
        given: dict[str, Any] = {"protect": self.core.include, "unprotect": self.core.exclude}
        if found := find_training(self.base, self.tasks, folder, config=config, **given, dtype=self.runtime.dtype):
            return found
        config, seed = resolve_settings(self.tasks, config)
        with open_workplace(self.out):
            claim = claim_output(folder, is_folder=True, force=True)
            return _train(dataclasses.replace(self, out=folder), config, seed, claim, pulled)

    def frozen_at(self, moved: Path) -> _Inner:
        """Return the same from a checkpoint that was trained from the base, with what has moved in it held."""
        pair = CheckpointPair.open(locate(self.base).path, moved)
        held = protected_entries(pair.base, self.core) | diff_checkpoints(self.base, moved).mask
        whole = {name: pair.tuned.spec(pair.replaced.get(name, name)) for name in (*pair.extra, *pair.replaced)}
        return dataclasses.replace(self, base=moved, core=ProtectedSet([held | Mask.full(whole)]))


def _train(inner: _Inner, config: TrainSpec, seed: int, claim: Claim, pulled: Path | None = None) -> TrainResult:
    """Train once, and make the claimed folder; `pulled` is the first stage of `localizable`, where it is there."""
    located, tasks, runtime, core, stage = locate(inner.base), inner.tasks, inner.runtime, inner.core, config
    if config.localizable is not None:
        core, stage = _confine(inner, config, pulled)
    data = MultiTaskData.open(located.path, tasks, runtime, seed)
    schedule, head = TrainingSchedule(data.sizes, stage, seed), data.heads[0]
    content = content_of_training(located.path, tasks, config, seed, runtime.dtype, inner.core.digest())
    staged = {**content, "train": describe_settings(stage, located.path), "protected": core.digest()}
    state = TrainingState(inner.out, staged, head.ranks)
    stepper = Stepper.start(head, schedule, located.path, core, read_importance(config, located.path))
    epochs, steps = run_epochs(stepper, data, state if inner.resume else state.cleared())
    manifest = {"base": located.name, "task": _describe(tasks), "seed": seed, "steps": steps, "train": content["train"]}
    manifest |= {"epochs": list(map(dataclasses.asdict, epochs))}
    _save(stepper, manifest, claim, hash_content(content))
    return TrainResult(inner.out, tuple(epochs), steps)


def _confine(inner: _Inner, config: TrainSpec, pulled: Path | None) -> tuple[ProtectedSet, TrainSpec]:
    """Find the weights that a first training with the L1 proximal step moves most; return the rest, and how to go on.

    Its folder stays in the output's workplace until the output is there.
    """
    assert config.localizable is not None
    checkpoint = Checkpoint.open(locate(inner.base).path)
    check_density(checkpoint, config, inner.core)
    folder = pulled or inner.train("proximal", configure_proximal(config, config.localizable)).path
    mask = find_core(inner.base, folder, config.localizable.density, config.scope)  # fewer, where fewer moved
    others = ProtectedSet(train_only=mask, names=checkpoint.names)
    return others, configure_restart(config, config.localizable)


def _search(inner: _Inner, config: TrainSpec, seed: int, claim: Claim) -> TrainResult:
    """Search for how to train, and make the folder of the last training."""
    assert config.search is not None
    spec, located, ranks = config.search, locate(inner.base), find_ranks()
    check_density(Checkpoint.open(located.path), configure_few(config, spec, spec.rates[0]), inner.core)
    base = MultiTaskData.open(located.path, inner.tasks, inner.runtime, seed).validate()
    spec, pulled = _find_few(inner, config, spec)
    made: dict[float, TrainResult] = {}

    def train_few(rate: float) -> float:
        made[rate] = inner.train(f"few-{rate:g}", configure_few(config, spec, rate), pulled.path)
        return made[rate].validation_accuracy

    rate = search_rate(spec, pulled.validation_accuracy, train_few)
    rest = inner.frozen_at(made[rate].path).train("rest", configure_rest(config, spec))
    trials = {each: result.validation_accuracy for each, result in made.items()}
    search = Search.of(base, pulled.validation_accuracy, trials, rate, rest.validation_accuracy)
    content = content_of_training(located.path, inner.tasks, config, seed, inner.runtime.dtype, inner.core.digest())
    if ranks.is_first:
        settings = {"base": located.name, "train": content["train"], "search": search.to_json()}
        with new_folder(claim) as folder:
            shutil.copytree(rest.path, folder, dirs_exist_ok=True)
            write_manifest(folder, read_manifest(folder) | settings, hash_content(content))
        drop_workplace(claim.path)
    ranks.wait()
    return dataclasses.replace(rest, path=claim.path, search=search)


def _find_few(inner: _Inner, config: TrainSpec, spec: SearchSpec) -> tuple[SearchSpec, TrainResult]:
    """Train with the L1 proximal step; where it lets fewer move than shall train, without it, and try one rate less."""
    stage = configure_pulled(config, spec)
    pulled, k = inner.train("pulled", stage), resolve_budget(_size(inner.base), spec.density, None)
    with contextlib.suppress(BudgetError):  # none moved
        if len(find_core(inner.base, pulled.path, spec.density, config.scope)) == k:
            return spec, pulled
    return dataclasses.replace(spec, rates=spec.rates[:1]), inner.train("moved", dataclasses.replace(stage, l1=0.0))


def _size(base: str | Path) -> int:
    return Checkpoint.open(locate(base).path).n_parameters


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
