"""The command `graft exclude`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from graft_cli import options
from graft_cli.regions import locate_regions
from graft_cli.saving import save_and_show

if TYPE_CHECKING:
    from graft.files.claims import Claim


@click.command("exclude")
@click.argument("patch")
@click.option(
    "--without",
    multiple=True,
    required=True,
    metavar="PATCH",
    help="Patch or mask whose region is removed; may be repeated.",
)
@options.base_values_from
@options.output("Patch file to write, or folder for a model.")
@options.force
@options.as_json
@options.debug
def command(patch: str, without: tuple[str, ...], base: str | None, output: Path, force: bool, as_json: bool) -> None:
    """Remove the regions of other skills from a PATCH, or from a tuned model.

    Every entry of PATCH that lies in one of the other regions is removed, whatever its value, and every tensor of a
    module, such as a head, that one of the two brings whole and the other changes. PATCH may also be a tuned
    model; --base is then required, and a copy of the model is written in which those regions hold the base's values
    again. --without takes patches and masks of the same base; if --base is given, they must be of that one.

    \b
    Example:
      graft exclude both.safetensors --without reviews.safetensors -o topics-alone.safetensors
      graft exclude runs/tuned --without skill.safetensors --base embedded:all-MiniLM-L6-v2 -o runs/without-skill
    """
    from graft.compose.exclusion import exclude_patches
    from graft.files.claims import claim_output
    from graft.files.location import local_paths

    is_model = _is_model(patch)
    claim = claim_output(output, is_folder=is_model, force=force, inputs=local_paths(patch, base, *without))
    regions, names = locate_regions(without)
    if is_model:
        _exclude_from_model(patch, base, regions, claim, as_json)
        return
    (path,), (label,) = locate_regions([patch])
    rest = exclude_patches(path, *regions, base=base, labels=[label, *names])
    method = rest.provenance.method
    more = {key: method[key] for key in ("removed", "torn", "whole", "without")}
    torn = f", {method['torn']:,} of them in modules that the others bring whole" if method["torn"] else ""
    whole = f"; whole: {', '.join(method['whole'])}" if method["whole"] else ""
    line = f"removed      {method['removed']:,} entries{torn}{whole}"
    save_and_show(rest, claim, as_json=as_json, more=more, lines=[line])


def _is_model(reference: str) -> bool:
    """Recognize a folder with a checkpoint, or the embedded encoder; anything else is taken for a patch."""
    folder = Path(reference).expanduser()
    names = ("model.safetensors", "model.safetensors.index.json")
    return reference.startswith("embedded:") or any((folder / name).is_file() for name in names)


def _exclude_from_model(tuned: str, base: str | None, regions: list[Path], claim: Claim, as_json: bool) -> None:
    from graft.evaluate.necessity import cut_removal
    from graft.files.location import locate
    from graft.patch.format.reading import load_region
    from graft.patch.merge import merge_patches
    from graft.tensors.checkpoint import Checkpoint

    if base is None:
        raise click.UsageError("to put regions of a model back to the base, give --base MODEL")
    removal = cut_removal(base, tuned, *(load_region(region)[0] for region in regions))
    k = merge_patches(Checkpoint.open(locate(tuned).path), [removal], claim, say=partial(click.echo, err=True))
    options.show({"output": str(claim), "k": k}, as_json, [f"wrote {claim} with {k:,} entries back at the base's"])
