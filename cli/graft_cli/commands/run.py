"""graft run."""

from __future__ import annotations

from pathlib import Path

import click

from graft.specs.runtime import Runtime
from graft_cli import options


@click.command("run")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override a key, such as seeds=[0].")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder to make. [default: runs/NAME]")
@options.data_root
@options.runs_model
@options.force
@options.as_json
@options.debug
def command(
    recipe: Path,
    assignments: tuple[str, ...],
    output: Path | None,
    runtime: Runtime,
    force: bool,
    as_json: bool,
) -> None:
    """Run a whole experiment from a YAML RECIPE: fine-tune, localise, graft, measure, draw.

    Ends with a table, plots and one patch per seed and method. A recipe of several tasks compares ways to have them in
    one model; one with `domains`, ways to learn something new without losing what the model can do. A run that was
    broken off goes on where it was when it is started again.

    \b
    Example:
      graft run recipes/quickstart.yaml --set seeds=[0] --set localize.density=1e-3 -o runs/one
    """
    from graft.recipes.run import run_recipe

    out = output or Path("runs") / recipe.stem
    result = run_recipe(recipe, out, assignments=assignments, device=runtime.device, dtype=runtime.dtype, force=force)
    lines = ["", result.table, "", *(f"wrote {file}" for file in result.files)]
    lines += [f"not as expected: {sentence}" for sentence in result.missed]
    options.show(dict(result.results), as_json, lines)
