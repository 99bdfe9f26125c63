"""The command `graft diff`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from graft_cli import options
from graft_cli.saving import save_and_show, show_notes


@click.command("diff")
@click.argument("base")
@click.argument("tuned")
@options.density
@options.budget
@options.takes_scope("all")
@options.with_base_values
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Patch file to write; without it a diagnosis is shown."
)
@options.plan
@options.force
@options.as_json
@options.debug
def command(
    base: str,
    tuned: str,
    density: float | None,
    budget: int | None,
    scope: str | None,
    with_base_values: bool,
    output: Path | None,
    plan: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Make a patch from BASE and TUNED without data, or find out beforehand whether a small one would do.

    Without --density or --budget every changed weight is kept, so that applying the patch gives TUNED bit for bit; with
    one of them, those that changed most. Without -o nothing is written, and a diagnosis is shown: how concentrated the
    change is, and what that means for a patch of 0.01 % of the weights.

    TUNED may also be a PEFT adapter of BASE, a folder or Hub id: its merged values are read, tensor by tensor.

    \b
    Example:
      graft diff embedded:all-MiniLM-L6-v2 runs/tuned
      graft diff embedded:all-MiniLM-L6-v2 runs/tuned --density 1e-4 -o skill.safetensors
    """
    from graft.files.claims import claim_output
    from graft.files.location import local_paths
    from graft.localize.diagnosis import diagnose_movement
    from graft.localize.diff import diff_checkpoints
    from graft.localize.pair_notes import describe_differences
    from graft.memory.diff import plan_diff

    if output is None and (density is not None or budget is not None or with_base_values or force):
        raise click.UsageError("--density, --budget, --with-base-values and --force need -o")
    claim = None
    if output is not None:
        claim = claim_output(output, is_folder=False, force=force, inputs=local_paths(base, tuned))
    options_of_cut: dict[str, Any] = {"density": density, "budget": budget, "scope": scope or "all"}
    options_of_cut["with_base_values"] = with_base_values
    if plan:
        planned = plan_diff(base, tuned, output, **options_of_cut)
        options.show(planned.to_json(), as_json, planned.lines())
        return
    keeps_all = output is not None and density is None and budget is None
    differences = describe_differences(base, tuned, scope or "all", whole=keeps_all)
    if claim is None:
        diagnosis = diagnose_movement(base, tuned, scope=scope or "all")
        options.show(diagnosis.to_json() | show_notes(differences), as_json, diagnosis.sentences)
        return
    patch = diff_checkpoints(base, tuned, **options_of_cut)
    diagnosis = diagnose_movement(base, tuned, scope=scope or "all")
    save_and_show(
        patch,
        claim,
        as_json=as_json,
        more={"diagnosis": diagnosis.to_json()},
        lines=[diagnosis.sentence],
        differences=differences,
    )
