"""The command `graft localize`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from graft.localize.registry import LOCALIZATION_METHODS, LocalizationMethod, check_general
from graft.specs.localize import Allocation, PathKind
from graft.specs.runtime import Runtime
from graft_cli import options, processes, structures
from graft_cli.fitting import plan_and_show, refit_and_show
from graft_cli.saving import save_and_show

if TYPE_CHECKING:
    from graft.evaluate.curve import GainCurve
    from graft.files.claims import Claim
    from graft.patch.skill_patch import Patch
    from graft.specs.localize import LocalizeSpec


_OF_PATCH = ("density", "budget", "lines", "bytes", "with_base_values", "force")
_REFIT_TAKES = ("method", "density", "budget", "structure", "max_rank", "lines", "bytes", "scope")


@click.command("localize", cls=options.RegistryCommand, registry=LOCALIZATION_METHODS)
@click.argument("base")
@click.argument("tuned")
@options.task
@options.density
@options.budget
@click.option(
    "--method",
    type=options.RegistryChoice(LOCALIZATION_METHODS),
    default="attribution",
    show_default=True,
    help="How to choose the weights; the methods are listed below.",
)
@click.option(
    "--general",
    "general_file",
    type=click.Path(path_type=Path),
    help="mathneuro: a TASK file whose training texts have no part in the skill.",
)
@structures.takes_structure
@options.takes_scope("layers")
@click.option(
    "--allocation",
    type=click.Choice(get_args(Allocation)),
    default="global",
    show_default=True,
    help="One budget over all tensors, or one for each tensor or layer in proportion to its size.",
)
@click.option(
    "--path",
    type=click.Choice(get_args(PathKind)),
    default="graft",
    show_default=True,
    help="attribution: along the graft as it grows, or straight from base to tuned.",
)
@click.option("--points", type=click.IntRange(1), default=8, show_default=True, help="attribution: points on the path.")
@click.option(
    "--class-debias/--plain",
    default=True,
    show_default=True,
    help="Set class offsets aside along the path, so that a bias towards one class does not choose the entries.",
)
@options.seed
@options.batch_size(32)
@click.option(
    "--micro-batch",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="fisher, talos, adam-attribution: examples whose gradients are averaged before they are squared; 1 is exact, "
    "more is faster.",
)
@click.option(
    "--curve",
    is_flag=True,
    help="Show the recovered gain on validation at densities from 1e-5 to 1e-2; -o is then optional.",
)
@click.option(
    "--exact-scores",
    is_flag=True,
    help="attribution, taylor, learned: score every weight in scope (4 bytes each in host memory) instead of "
    "candidates picked by the first gradients.",
)
@click.option(
    "--measure/--no-measure",
    default=True,
    show_default=True,
    help="Say what the patch keeps of the gain on validation, which runs base, tuned and graft over that split.",
)
@click.option(
    "--refit",
    is_flag=True,
    help="Fit the values of the weights to TUNED's outputs instead of copying them, for a checkpoint whose skill lies "
    "in no small set of its weights; the weights are those with the largest gradients, or those of --method (graft "
    "refit has more options).",
)
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
    task_file: Path,
    general_file: Path | None,
    seed: int | None,
    curve: bool,
    measure: bool,
    refit: bool,
    assignments: tuple[str, ...],
    with_base_values: bool,
    output: Path | None,
    runtime: Runtime,
    plan: bool,
    force: bool,
    as_json: bool,
    **settings: object,
) -> None:
    """Find the weights that hold what TUNED learned beyond BASE, and cut them out as a patch.

    Exactly round(density x parameters) weights are kept (default density 1e-4), within the scope (default: the numbered
    layers). Scores use only the task's training examples; learned, paper, --curve and --measure use validation too.
    TUNED may also be a PEFT adapter of BASE, a folder or Hub id: its merged values are read, tensor by tensor.

    \b
    Example:
      graft localize embedded:all-MiniLM-L6-v2 runs/tuned --task recipes/starter/reviews/task.yaml -o skill.safetensors
      graft localize base tuned --task task.yaml --method learned --set learn.epochs=8 -o skill.safetensors
    """
    from graft.evaluate.curve import measure_curve
    from graft.files.claims import claim_output
    from graft.files.location import local_paths
    from graft.localize.localization import localize_skill
    from graft.memory.localize import plan_localization

    _check_usage(output, curve, plan, {**settings, "with_base_values": with_base_values, "force": force})
    task, claim = options.load_task(task_file, seed), None
    general = None if general_file is None else options.load_task(general_file, seed)
    if output is not None:
        inputs = (*local_paths(base, tuned), *options.files_of((task_file, task), (general_file, general)))
        claim = claim_output(output, is_folder=False, force=force, inputs=inputs)
    if refit:
        _refit(base, tuned, task, claim, runtime, settings, assignments, plan, as_json, with_base_values)
        return
    config = _read_block({**settings, "seed": task.spec.seed}, assignments)
    check_general(config.method, general is not None)
    if plan:
        planned = plan_localization(base, task, config, runtime, measured=measure)
        options.show(planned.to_json(), as_json, planned.lines())
        return
    gains = measure_curve(base, tuned, task, config, general=general, runtime=runtime) if curve else None
    if claim is None:
        assert gains is not None
        options.show(gains.to_json(), as_json, _curve_lines(gains))
        return
    more: dict[str, Any] = {"general": general, "with_base_values": with_base_values}
    patch = localize_skill(base, tuned, task, config, **runtime.options, **more)
    kept = _measure(base, tuned, task, patch, config, runtime) if measure else {}
    _show(base, tuned, patch, claim, config, gains, kept, as_json)


def _read_block(settings: Mapping[str, object], assignments: tuple[str, ...]) -> LocalizeSpec:
    """Read the localize block of the options that were given, and of --set."""
    from graft.specs.localize import LocalizeSpec
    from graft.specs.reader import override, read_config

    given = {key: value for key, value in settings.items() if value is not None}
    return read_config(LocalizeSpec, override(given, assignments), "command line")


def _show(
    base: str,
    tuned: str,
    patch: Patch,
    claim: Claim,
    config: LocalizeSpec,
    gains: GainCurve | None,
    kept: dict[str, Any],
    as_json: bool,
) -> None:
    """Save the patch, and print it with its curve and what it keeps on validation."""
    from graft.localize.pair_notes import describe_differences

    differences = describe_differences(base, tuned, config.scope, whole=False) if processes.is_first() else None
    more = kept | ({} if gains is None else {"curve": gains.to_json()})
    lines = [] if gains is None else ["", *_curve_lines(gains), ""]
    lines += [structures.describe_lines_kept(patch, config)] if config.has_lines else []
    lines += [measured["sentence"] for measured in kept.values()]
    save_and_show(patch, claim, as_json=as_json, more=more, lines=lines, differences=differences)


def _refit(
    base: str,
    tuned: str,
    task: Any,
    claim: Claim | None,
    runtime: Runtime,
    settings: Mapping[str, Any],
    assignments: tuple[str, ...],
    plan: bool,
    as_json: bool,
    with_base_values: bool,
) -> None:
    """Fit values instead of copying them, on the weights that the options of `graft localize` choose."""
    from graft.specs.reader import override, read_config
    from graft.specs.refit import RefitSpec

    given = (*settings, "general_file", "curve", "measure")
    idle = [name for name in given if name not in _REFIT_TAKES and options.is_given(name)]
    if idle:
        raise click.UsageError(f"--refit does not go with --{idle[0].removesuffix('_file').replace('_', '-')}")
    block = {name: settings[name] for name in _REFIT_TAKES if name != "method" and settings[name] is not None}
    support = {"support": settings["method"]} if options.is_given("method") else {}
    config = read_config(RefitSpec, override({**block, **support, "seed": task.spec.seed}, assignments), "command line")
    if claim is None or plan:
        plan_and_show(base, tuned, task, config, runtime, k=None, as_json=as_json)
        return
    refit_and_show(base, tuned, task, config, runtime, claim, as_json=as_json, with_base_values=with_base_values)


def _measure(base: str, tuned: str, task: Any, patch: Patch, config: LocalizeSpec, runtime: Runtime) -> dict[str, Any]:
    """Measure what the patch keeps, for the JSON; a failure costs nobody the patch, and is said on stderr.

    The first of several processes does, unless they share the weights, which none could hold whole.
    """
    if not processes.is_first() or processes.share_weights(runtime):
        return {}
    from graft.errors import GraftError
    from graft.evaluate.kept_gain import measure_kept

    try:
        return {"validation": measure_kept(base, tuned, task, patch, config, runtime=runtime).to_json()}
    except GraftError as error:
        click.echo(f"not measured on validation: {error}", err=True)
        return {}


def _check_usage(output: Path | None, curve: bool, plan: bool, patch_options: Mapping[str, object]) -> None:
    structures.check_sizes(patch_options)
    if plan:
        return
    if output is None and not curve:
        raise click.UsageError("Missing option '-o' / '--output' (or --curve, --plan).")
    idle = [key for key in _OF_PATCH if output is None and patch_options.get(key)]
    if idle:
        raise click.UsageError("--density, --budget, --lines, --bytes, --with-base-values and --force need -o")


def _curve_lines(curve: GainCurve) -> list[str]:
    rows = [f"{'density':>8}  {'k':>11}  {'accuracy':>8}  {'gain':>6}"]
    rows.append(f"{'base':>8}  {'':>11}  {curve.base:>8.3f}")
    for point in curve.points:
        gain = "" if point.gain is None else f"{point.gain:.2f}"
        rows.append(f"{point.density:>8g}  {point.k:>11,}  {point.accuracy:>8.3f}  {gain:>6}")
    rows.append(f"{'tuned':>8}  {'':>11}  {curve.tuned:>8.3f}")
    note = f"(on {curve.n:,} validation examples, by {curve.method})"
    method = LOCALIZATION_METHODS[curve.method]
    if isinstance(method, LocalizationMethod) and method.needs_validation:
        note = f"(on {curve.n:,} validation examples, on which {curve.method} also chooses: take it as an upper bound)"
    return [*(row.rstrip() for row in rows), note, *_area_line(curve), curve.sentence]


def _area_line(curve: GainCurve) -> list[str]:
    if curve.area is None:
        return []
    ends = "" if curve.interval is None else " [{:.2f}, {:.2f}]".format(*curve.interval)
    return [f"Area under the gain over log density: {curve.area:.2f}{ends} (0 the base, 1 the tuned model)."]
