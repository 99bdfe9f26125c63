"""The command `graft train`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from graft.specs.localizable import LocalizableSpec
from graft.specs.runtime import Runtime
from graft.specs.train import REPLACED_BY_LOCALIZABLE, Optimizer, Precision, TrainSpec
from graft_cli import options
from graft_cli.regions import load_regions

if TYPE_CHECKING:
    from graft.memory.plan import MemoryPlan
    from graft.train.fine_tuning import TrainResult

_NOT_HOW = {"localizable", "precision", "micro_batch_size"}  # keys whose change leaves a TASK without a block as it is


@click.command("train")
@click.argument("base", metavar="BASE")
@options.task
@click.option("--lr", type=float, help="Learning rate. [default: the task's]")
@click.option("--epochs", type=click.IntRange(1), help="Passes over the training examples. [default: the task's]")
@click.option("--optimizer", type=click.Choice(get_args(Optimizer)), help="Optimizer. [default: the task's]")
@click.option("--batch-size", type=click.IntRange(1), help="Examples per step. [default: the task's]")
@click.option(
    "--micro-batch-size",
    type=click.IntRange(1),
    help="Examples that go through the model at once; gradients accumulate over a step. [default: the batch size]",
)
@click.option(
    "--precision",
    type=click.Choice(get_args(Precision)),
    help="How a base in bfloat16 or float16 is trained. mixed: fp32 master weights, products in bfloat16. pure: all in "
    "the base's dtype. full: products in fp32 too. The result is saved in the base's dtype. [default: the task's, or "
    "mixed]",
)
@click.option("--scope", help="Tensors that train: all, layers, a sum, or a regex. [default: the task's]")
@click.option(
    "--localizable",
    is_flag=True,
    help="Train only few weights, those with the largest gradient at the base: the patch then holds all that was "
    "learned.",
)
@click.option("--density", type=float, help="Share of all parameters that --localizable trains. [default: 1e-4]")
@click.option("--protect", multiple=True, metavar="PATCH", help="Keep this region bit for bit; may be repeated.")
@click.option(
    "--unprotect", multiple=True, metavar="PATCH", help="Exempt this region from protection; may be repeated."
)
@click.option(
    "--method",
    type=click.Choice(["full", "core-freeze", "regularize"]),
    default="full",
    show_default=True,
    help="full: every weight in scope trains that is not protected. core-freeze: the same, but refuses to run without "
    "a region to protect. regularize: changing a weight costs in proportion to its importance.",
)
@click.option(
    "--importance",
    help="regularize: what `--record` or `graft importance --soft` wrote, or uniform (L2 to BASE). "
    "[default: the record in BASE's folder]",
)
@click.option(
    "--record", is_flag=True, help="Record during training which weights matter, in a file beside the tuned weights."
)
@options.assignments
@options.seed
@click.option("--resume", is_flag=True, help="Continue after the last finished epoch of an interrupted run.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder to make.")
@options.takes_gradients
@options.plan
@options.force
@options.as_json
@options.debug
def command(
    base: str,
    task_file: Path,
    localizable: bool,
    density: float | None,
    protect: tuple[str, ...],
    unprotect: tuple[str, ...],
    method: str,
    importance: str | None,
    record: bool,
    assignments: tuple[str, ...],
    seed: int | None,
    resume: bool,
    output: Path | None,
    runtime: Runtime,
    plan: bool,
    force: bool,
    as_json: bool,
    **settings: object,
) -> None:
    """Fine-tune BASE on a task and save the tuned checkpoint as a folder.

    A TASK without a train block trains as --localizable says, within the layers: the patch will hold all of it.

    The folder appears only when training is done; until then OUTPUT.resume holds the state after each epoch.

    --protect takes patches and masks. Where BASE holds a patch's values, that skill is frozen, with the head that the
    patch brings; where it holds those that the patch would replace, these are frozen; anything else is refused. A mask
    freezes whatever BASE holds. A line on stderr says which it was.

    \b
    Example:
      graft train embedded:all-MiniLM-L6-v2 --task recipes/starter/reviews/task.yaml -o runs/tuned
      graft train embedded:all-MiniLM-L6-v2 --task recipes/starter/reviews/task.yaml --localizable -o runs/sparse
      graft train runs/merged --task task.yaml --protect skill.safetensors --unprotect old.safetensors -o runs/next
      graft train embedded:all-MiniLM-L6-v2 --task recipes/starter/topics/task.yaml --record -o runs/topics
      graft train runs/topics --task recipes/starter/reviews/task.yaml --method regularize -o runs/both
    """
    from graft.files.claims import claim_output
    from graft.files.location import local_paths
    from graft.memory.train import plan_precisions
    from graft.train.fine_tuning import train_task

    if output is None and not plan:
        raise click.UsageError("Missing option '-o' / '--output' (or --plan).")
    _check_usage(method, protect, unprotect, density if not localizable else None, importance)
    task = options.load_task(task_file, seed)
    enabled = {"regularize": method == "regularize", "localizable": localizable, "record": record}
    blocks: dict[str, Any] = {"regularize": {"importance": importance}, "localizable": {"density": density}}
    config = _read_config(task, settings, {key: blocks.get(key, {}) for key in enabled if enabled[key]}, assignments)
    inputs = [*local_paths(base, importance, *protect, *unprotect), *options.files_of((task_file, task))]
    claim = None if plan or output is None else claim_output(output, is_folder=True, force=force, inputs=inputs)
    core, free = load_regions(protect), load_regions(unprotect)
    if claim is None:
        plans = plan_precisions(base, task, config, protect=core, unprotect=free, runtime=runtime)
        _show_plan(plans, config, as_json)
        return
    train = partial(train_task, base, task, claim, config=config, protect=core, unprotect=free)
    result = train(**runtime.options, resume=resume)
    _show(result, claim.path, as_json)


def _show_plan(plans: Mapping[Precision, MemoryPlan], config: TrainSpec, as_json: bool) -> None:
    from graft.memory.plan import format_bytes

    planned = plans[config.precision]
    plain, lines = planned.to_json(), planned.lines()
    if len(plans) > 1:
        totals = {name: plan.to_json()["total"] for name, plan in plans.items()}
        plain |= {"precision": config.precision, "precisions": totals}
        lines += [f"precision {name}: {format_bytes(sum(total.values()))} in all" for name, total in totals.items()]
    if (few := config.localizable) is not None:
        how = "two trainings in turn" if few.trainings > 1 else "one training, after a backward pass over its examples"
        plain, lines = plain | {"trainings": few.trainings}, [*lines, f"few weights train: {how}"]
    options.show(plain, as_json, lines)


def _show(result: TrainResult, output: Path, as_json: bool) -> None:
    lines = [
        f"epoch {number}: loss {epoch.loss:.4f}, validation accuracy {epoch.validation_accuracy:.4f}"
        for number, epoch in enumerate(result.epochs, start=1)
    ]
    plain: dict[str, Any] = {"output": str(output), "epochs": [dataclasses.asdict(epoch) for epoch in result.epochs]}
    if result.changes is not None:
        plain["changes"] = dataclasses.asdict(result.changes)
        lines.append(f"changed: {result.changes.changed:,} of the {result.changes.trained:,} entries that trained")
    options.show(plain, as_json, [*lines, f"wrote {output}"])


def _read_config(
    task: Any, settings: Mapping[str, object], more: Mapping[str, Mapping[str, object]], assignments: tuple[str, ...]
) -> Any:
    """Read the task's train block, as changed by the options, the blocks that they open, and --set.

    A TASK without one trains few weights, unless a change says how to train: who sets something has chosen.
    """
    from graft.specs.reader import override, read_config, to_plain
    from graft.specs.train import once_told

    changes = {key: value for key, value in settings.items() if value is not None}
    plainly = {*changes, *more, *map(_first_key, assignments)} - _NOT_HOW
    block = to_plain(once_told(task.spec.train) if plainly else task.spec.train)
    if "localizable" in more and "localizable" not in block:
        pulls = any(item.startswith("localizable.proximal_") for item in assignments)
        block["localizable"] = {} if pulls else {"support": "gradient"}
    for key, fields in more.items():
        changes[key] = {**block.get(key, {}), **{name: value for name, value in fields.items() if value is not None}}
    config = read_config(TrainSpec, override({**block, **changes}, assignments), "command line")
    if config.localizable is not None:
        _refuse_ignored({*(key for key, value in settings.items() if value is not None), *map(_first_key, assignments)})
    return config


def _refuse_ignored(told: set[str]) -> None:
    """Refuse what was asked for on the command line and would be ignored, where few weights train."""
    for key in (key for key in REPLACED_BY_LOCALIZABLE if key in told):
        own = f"--set localizable.{key}=…" if key in LocalizableSpec.__dataclass_fields__ else "leave it out"
        raise click.UsageError(f"{key} is of training all weights, and few train here in a way of their own: {own}")


def _first_key(assignment: str) -> str:
    return assignment.partition("=")[0].partition(".")[0]


def _check_usage(
    method: str,
    protect: tuple[str, ...],
    unprotect: tuple[str, ...],
    stray_density: float | None,
    importance: str | None,
) -> None:
    """Refuse options that mean nothing without another."""
    if method == "core-freeze" and not protect:
        raise click.UsageError("--method core-freeze needs the core: --protect PATCH")
    if unprotect and not protect:
        raise click.UsageError("--unprotect takes out of what --protect names")
    if stray_density is not None:
        raise click.UsageError("--density is how many weights --localizable trains")
    if importance is not None and method != "regularize":
        raise click.UsageError("--importance is what --method regularize goes by")
