"""The command `graft compose`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from graft_cli import options
from graft_cli.regions import locate_regions
from graft_cli.saving import save_and_show


@click.command("compose")
@click.argument("patches", nargs=-1, required=True, metavar="PATCH...")
@options.on_overlap
@click.option("--chain", is_flag=True, help="Each PATCH was cut from the model that those before it give.")
@options.base_values_from
@options.with_base_values
@options.output("Patch file to write.")
@options.force
@options.as_json
@options.debug
def command(
    patches: tuple[str, ...],
    on_overlap: Any,
    chain: bool,
    base: str | None,
    with_base_values: bool,
    output: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Join several patches of one base into one, and count the weights that they share.

    A patch holds a hash of the base's values. Where two patches touch the same tensor a new hash is needed, and for it
    the values themselves: from --base, or from the patches if they were cut with --with-base-values. Patches of the
    embedded encoder need neither.

    With --chain the second patch was cut from base + the first, and so on: the outcome is one patch from the base that
    gives what the chain gives, bit for bit. What is set last stays, and entries that are the base's again drop out.

    \b
    Example:
      graft compose topics.safetensors reviews.safetensors --on-overlap sign -o both.safetensors
      graft compose first.safetensors second.safetensors --chain -o whole.safetensors
    """
    from graft.compose.chain import chain_patches
    from graft.compose.composition import compose_patches
    from graft.files.claims import claim_output
    from graft.files.location import local_paths

    if chain and options.is_given("on_overlap"):
        raise click.UsageError("--on-overlap does not go with --chain, of which what is set last stays")
    claim = claim_output(output, is_folder=False, force=force, inputs=local_paths(base, *patches))
    paths, labels = locate_regions(patches)
    if chain:
        patch = chain_patches(*paths, base=base, with_base_values=with_base_values, labels=labels)
        restored = patch.provenance.method["restored"]
        line = f"chain        {' -> '.join(labels)}; {restored:,} entries are the base's again"
        save_and_show(patch, claim, as_json=as_json, more={"restored": restored}, lines=[line])
        return
    patch = compose_patches(*paths, on_overlap=on_overlap, base=base, with_base_values=with_base_values, labels=labels)
    overlap = patch.provenance.method["overlap"]
    line = f"shared       {overlap['shared']:,} entries, of which {overlap['differing']:,} differed: {on_overlap}"
    save_and_show(patch, claim, as_json=as_json, more={"overlap": overlap}, lines=[line])
