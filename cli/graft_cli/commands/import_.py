"""The command `graft import`."""

from __future__ import annotations

from pathlib import Path

import click

from graft.interop.registry import IMPORT_FORMATS
from graft_cli import options
from graft_cli.saving import save_and_show


@click.command("import")
@click.argument("file")
@options.choose("--from", "source", required=True, registry=IMPORT_FORMATS, help="Format to read.")
@click.option("--base", required=True, metavar="MODEL", help="The model that FILE was made for.")
@options.density
@options.budget
@options.with_base_values
@options.output("Patch file to write.")
@options.force
@options.as_json
@options.debug
def command(
    file: str,
    source: str,
    base: str,
    density: float | None,
    budget: int | None,
    with_base_values: bool,
    output: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Make a patch from another tool's FILE and its base.

    Every changed weight is kept or, with --density or --budget, those that changed most; weights that differ only by
    rounding to FILE's dtype do not count among these.

    \b
    Example:
      graft import runs/lora --from lora --base ORG/MODEL --density 1e-3 -o skill.safetensors
    """
    from graft.files.claims import claim_output
    from graft.files.location import local_paths, locate
    from graft.interop.importing import Imported

    claim = claim_output(output, is_folder=False, force=force, inputs=local_paths(file, base))
    imported = Imported.open(locate(file).path, source, base)
    differences = imported.describe(whole=density is None and budget is None)
    patch = imported.cut(density, budget, with_base_values=with_base_values)
    save_and_show(patch, claim, as_json=as_json, differences=differences)
