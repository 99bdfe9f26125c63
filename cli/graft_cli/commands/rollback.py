"""The command `graft rollback`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from graft.evaluate.registry import RESTORABLE
from graft.specs.rollback import RollbackMethod, RollbackSpec
from graft.specs.runtime import Runtime
from graft_cli import options
from graft_cli.saving import save_and_show

if TYPE_CHECKING:
    from graft.evaluate.rollback_curve import RollbackCurve


@click.command("rollback")
@click.argument("base")
@click.argument("tuned")
@click.option(
    "--keep", "keep_file", required=True, type=click.Path(path_type=Path), help="TASK file of what was learned."
)
@click.option(
    "--restore",
    "restore_files",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    help="TASK file of what was lost; may be repeated.",
)
@options.data_root
@options.choose(
    "--restore-metric",
    registry=RESTORABLE,
    default="accuracy",
    show_default=True,
    help="What of the restore tasks is to come back.",
)
@click.option(
    "--share", type=float, default=0.5, show_default=True, help="Share of what was lost that is to come back."
)
@click.option(
    "--tolerance", type=float, default=0.01, show_default=True, help="The most accuracy that it may cost the keep task."
)
@click.option("--density", type=float, help="Share of TUNED's parameters to put back, such as 1e-4.")
@click.option("--budget", type=int, help="Number of weights to put back, instead of --density.")
@click.option(
    "--method",
    type=click.Choice(get_args(RollbackMethod)),
    help="How to choose the weights: by gain for what was lost less harm to what was learned, or without data. "
    "[default: taylor]",
)
@click.option(
    "--refit",
    is_flag=True,
    help="Fit the values of the weights to both models' outputs, in place of the base's; the fit needs no labels.",
)
@click.option(
    "--curve",
    is_flag=True,
    help="Measure all densities from 1e-5 to 1e-2, also those above the one that is taken; -o is then optional.",
)
@options.takes_scope("layers")
@options.seed
@options.batch_size(32)
@options.assignments
@click.option(
    "--with-base-values", is_flag=True, help="Also store TUNED's values there, so that a merged patch can be undone."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Patch file to write.")
@options.runs_model_backwards
@options.plan
@options.force
@options.as_json
@options.debug
def command(
    base: str,
    tuned: str,
    keep_file: Path,
    restore_files: tuple[Path, ...],
    density: float | None,
    refit: bool,
    curve: bool,
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
    """Put the fewest weights of TUNED back to BASE so that what tuning lost returns, and what it taught stays.

    The result is a patch of TUNED: `graft apply TUNED PATCH`. Without --density or --budget the fewest weights are
    searched for that bring back the --share at no more than the --tolerance, on validation; where there are none, those
    that bring back most at that price are taken, and a line says so; where nothing comes back, no patch is made, and
    the curve is shown.

    \b
    Example:
      graft rollback embedded:all-MiniLM-L6-v2 runs/tuned --keep reviews.yaml --restore topics.yaml -o back.safetensors
      graft apply runs/tuned back.safetensors -o runs/both
    """
    from graft.evaluate.rollback import roll_back, trace_rollback
    from graft.files.claims import claim_output
    from graft.files.location import local_paths
    from graft.memory.rollback import plan_rollback
    from graft.specs.reader import override, read_config

    if output is None and not plan:
        _check_usage(curve, {**settings, "density": density, "with_base_values": with_base_values, "force": force})
    keep = options.load_task(keep_file, seed)
    restore = [options.load_task(path, seed) for path in restore_files]
    claim = None
    if output is not None:
        files = options.files_of((keep_file, keep), *zip(restore_files, restore, strict=True))
        claim = claim_output(output, is_folder=False, force=force, inputs=(*local_paths(base, tuned), *files))
    block = {**_block(settings, density, refit), "seed": keep.spec.seed}
    config = read_config(RollbackSpec, override(block, assignments), "command line")
    if plan:
        planned = plan_rollback(base, tuned, [keep, *restore], config, runtime)
        options.show(planned.to_json(), as_json, planned.lines())
        return
    if claim is None:
        traced = trace_rollback(base, tuned, keep, restore, config, runtime=runtime)
        options.show(traced.to_json(), as_json, _curve_lines(traced))
        return
    more = {"with_base_values": with_base_values, "whole_curve": curve}
    with _showing_curve(as_json):
        found = roll_back(base, tuned, keep, restore, config, runtime=runtime, **more)
    lines = ["", *_curve_lines(found.curve), ""]
    save_and_show(found.patch, claim, as_json=as_json, more={"curve": found.curve.to_json()}, lines=lines)


@contextlib.contextmanager
def _showing_curve(as_json: bool) -> Iterator[None]:
    """Print the curve, which took the work, where nothing comes back and there is no patch to print it with."""
    from graft.evaluate.rollback_curve import NothingRestored

    try:
        yield
    except NothingRestored as error:
        *lines, _ = _curve_lines(error.curve)  # the error says the last
        options.show({"curve": error.curve.to_json()}, as_json, lines)
        raise


def _block(settings: Mapping[str, object], density: float | None, refit: bool) -> dict[str, object]:
    """Return the settings that were given as a rollback block."""
    if refit and settings["method"]:
        raise click.UsageError("--refit takes the largest gradients of its loss: leave out --method")
    block = {key: value for key, value in settings.items() if value is not None}
    block |= {} if density is None else {"densities": [density]}
    return block | ({"values": "refit"} if refit else {})


def _check_usage(curve: bool, patch_options: Mapping[str, object]) -> None:
    if not curve:
        raise click.UsageError("Missing option '-o' / '--output' (or --curve, --plan).")
    if any(patch_options.get(key) for key in ("density", "budget", "with_base_values", "force")):
        raise click.UsageError("--density, --budget, --with-base-values and --force need -o")


def _curve_lines(curve: RollbackCurve) -> list[str]:
    names = list(curve.base)
    widths = [max(len(name), 8) for name in names]

    def row(cells: tuple[object, ...], restored: list[str], share: str) -> str:
        shown = "  ".join(f"{text:>{width}}" for text, width in zip(restored, widths, strict=True))
        return f"{cells[0]:>9}  {cells[1]:>10}  {cells[2]:>{max(len(curve.keep), 8)}}  {shown}  {share:>6}".rstrip()

    lines = [row(("density", "k", curve.keep), names, "share")]
    lines.append(row(("tuned", "", f"{curve.keep_tuned:.3f}"), [f"{curve.tuned[name]:.3f}" for name in names], ""))
    for point in curve.points:
        cells = (f"{point.density:.2g}", f"{point.k:,}", f"{point.keep:.3f}")
        lines.append(row(cells, [f"{point.restore[name]:.3f}" for name in names], f"{point.share:.2f}"))
    lines.append(row(("base", "", f"{curve.keep_base:.3f}"), [f"{curve.base[name]:.3f}" for name in names], ""))
    note = f"({curve.keep}: accuracy, the rest: {curve.metric}; on validation, by {curve.method})"
    return [*lines, note, curve.sentence]
