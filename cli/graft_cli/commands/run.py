"""The command `graft run`."""

from __future__ import annotations

from pathlib import Path

import click

from graft.recipes.registry import KINDS
from graft.specs.runtime import Runtime
from graft_cli import options


class RunCommand(click.Command):
    """A command whose help lists the kinds of recipes."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help, then the list of kinds."""
        super().format_help_text(ctx, formatter)
        with formatter.section("Kinds of recipes (the key kind)"):
            formatter.write_dl([(kind.name, kind.help) for kind in KINDS.values()])


@click.command("run", cls=RunCommand)
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override a key, such as seeds=[0].")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder to make. [default: runs/NAME]")
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Seeds to run side by side, in processes that share the cores; each GPU takes its own. Each holds models: "
    "memory grows with it.",
)
@options.data_root
@options.runs_model
@options.force
@options.as_json
@options.debug
def command(
    recipe: Path,
    assignments: tuple[str, ...],
    output: Path | None,
    jobs: int,
    runtime: Runtime,
    force: bool,
    as_json: bool,
) -> None:
    """Run a whole experiment from a YAML RECIPE: fine-tune, localize, graft, measure, draw.

    Writes results.json, a table, plots, and the patches of every seed. An interrupted run continues where it stopped
    when it is started again.

    \b
    Example:
      graft run recipes/quickstart.yaml --set seeds=[0] --set localize.density=1e-3 -o runs/one
    """
    from graft.recipes.run import run_recipe

    out = output or Path("runs") / recipe.stem
    where = {"device": runtime.device, "dtype": runtime.dtype}
    result = run_recipe(recipe, out, assignments=assignments, force=force, jobs=jobs, **where)
    lines = ["", result.table, "", *(f"wrote {file}" for file in result.files)]
    lines += [f"not as expected: {sentence}" for sentence in result.missed]
    options.show(dict(result.results), as_json, lines)
