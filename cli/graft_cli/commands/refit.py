"""The command `graft refit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from graft.refit.registry import SUPPORTS
from graft.specs.refit import Criterion
from graft.specs.runtime import Runtime
from graft_cli import options, structures
from graft_cli.fitting import plan_and_show, refit_and_show
from graft_cli.regions import load_regions, load_with_provenance

if TYPE_CHECKING:
    from graft.patch.mask import Mask
    from graft.patch.skill_patch import Patch
    from graft.tasks.task import Task


_OF_SUPPORT = ("density", "budget", "support", "structure", "max_rank", "lines", "bytes", "scope")


@click.command("refit")
@click.argument("base")
@click.argument("tuned")
@click.argument("patch", required=False)
@options.task_or_none
@click.option(
    "--texts",
    "texts_file",
    type=click.Path(path_type=Path),
    help="File of texts to fit to (jsonl, csv, parquet), in the task's columns and without labels; of completion tasks "
    "with their answers. [default: the task's whole training split, whose labels are not read]",
)
@options.density
@options.budget
@click.option(
    "--support",
    type=options.RegistryChoice(SUPPORTS),
    help="How to choose the weights, without PATCH: gradient (largest gradient of the refit's loss at the base) or any "
    "method of `graft localize --help`. [default: gradient]",
)
@structures.takes_structure
@options.takes_scope("layers")
@click.option(
    "--labels",
    type=options.FiniteRange(0, 1),
    help="Weight of the labels' loss; the rest is the divergence from TUNED's outputs. [default: 0]",
)
@click.option("--lr", type=float, help="Learning rate of Adam at its highest. [default: 1 / (2 sqrt(weights))]")
@click.option("--epochs", type=click.IntRange(1), help="Passes over the texts. [default: 3]")
@click.option("--batch-size", type=click.IntRange(1), help="Texts per step. [default: 16]")
@click.option(
    "--rounds",
    type=click.IntRange(1),
    help="Times that values are fitted; in between, the weights that moved least are dropped and others grown where "
    "the gradient is largest. [default: 1]",
)
@click.option(
    "--select",
    type=click.Choice(get_args(Criterion)),
    help="What validation chooses the epoch by: the labels' NLL, or the KL from TUNED. [default: nll]",
)
@options.seed
@options.assignments
@options.with_base_values
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Patch file to write.")
@options.takes_gradients
@options.plan
@options.force
@options.as_json
@options.debug
def command(
    base: str,
    tuned: str,
    patch: str | None,
    task_file: Path | None,
    texts_file: Path | None,
    seed: int | None,
    assignments: tuple[str, ...],
    with_base_values: bool,
    output: Path | None,
    runtime: Runtime,
    plan: bool,
    force: bool,
    as_json: bool,
    **settings: object,
) -> None:
    """Fit the values of few weights of BASE so that it answers as TUNED does, and save them as a patch.

    For a checkpoint of any training, such as by AdamW, whose skill lies in no small set of its weights. Texts
    suffice: TUNED labels them. The weights are those of PATCH (a patch or a mask), or exactly round(density x
    parameters) chosen by --support; all others stay as they are. After each pass validation is measured, and the best
    values are kept.

    Without --task the head and labels that PATCH names are used, and a fifth of --texts is held out to choose by.

    \b
    Example:
      graft refit embedded:all-MiniLM-L6-v2 runs/tuned --task recipes/starter/reviews/task.yaml -o skill.safetensors
      graft refit base tuned skill.safetensors --texts texts.jsonl -o refit.safetensors
    """
    from graft.files.claims import claim_output
    from graft.files.location import local_paths
    from graft.specs.data import SplitSpec
    from graft.specs.reader import override, read_config
    from graft.specs.refit import RefitSpec

    if output is None and not plan:
        raise click.UsageError("Missing option '-o' / '--output' (or --plan).")
    idle = [key for key in _OF_SUPPORT if patch is not None and settings[key] is not None]
    if idle:
        raise click.UsageError(f"PATCH says which weights: --{idle[0].replace('_', '-')} goes without it")
    structures.check_sizes(settings)
    region, task = _load_inputs(patch, task_file, texts_file, seed)
    held_out = {} if task_file else {"hold_out": 0.2, "select": "kl"}
    block = held_out | {key: value for key, value in settings.items() if value is not None}
    config = read_config(
        RefitSpec, override({**block, "seed": task.spec.seed if seed is None else seed}, assignments), "command line"
    )
    if plan:
        k = None if region is None else len(region)
        plan_and_show(base, tuned, task, config, runtime, k=k, as_json=as_json)
        return
    assert output is not None
    inputs = [*local_paths(base, tuned, patch), *options.files_of((task_file or texts_file, task))]
    claim = claim_output(output, is_folder=False, force=force, inputs=inputs)
    texts = None if texts_file is None else task.read_texts(SplitSpec(str(texts_file.absolute())))
    more = {"support": region, "texts": texts, "with_base_values": with_base_values}
    refit_and_show(base, tuned, task, config, runtime, claim, as_json=as_json, **more)


def _load_inputs(
    patch: str | None, task_file: Path | None, texts_file: Path | None, seed: int | None
) -> tuple[Patch | Mask | None, Task]:
    """Load the region, and the task: of its file, or that which the patch names over the file of texts."""
    from graft.refit.data import task_of

    if task_file is not None:
        return (None if patch is None else load_regions([patch])[0]), options.load_task(task_file, seed)
    if patch is None or texts_file is None:
        raise click.UsageError("give --task, or a PATCH that names its task and --texts")
    region, provenance = load_with_provenance(patch)
    return region, task_of(provenance.task or {}, texts_file)
