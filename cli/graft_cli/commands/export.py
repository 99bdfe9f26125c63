"""The command `graft export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from graft.interop.registry import EXPORT_FORMATS
from graft_cli import options


@click.command("export")
@click.argument("patch")
@options.choose("--to", required=True, registry=EXPORT_FORMATS, help="Format to write.")
@click.option(
    "--base",
    metavar="MODEL",
    help="The model that PATCH was cut from; formats of differences can also use base values that PATCH stores.",
)
@click.option("--strict", is_flag=True, help="Refuse if adding differences cannot reproduce every value exactly.")
@click.option(
    "--skip-unsupported", is_flag=True, help="Leave out tensors that the format cannot hold, instead of refusing."
)
@click.option(
    "--max-rank",
    type=click.IntRange(1),
    help="lora: the largest rank of a layer's factors; a layer that needs more is refused by name.  [default: 64]",
)
@options.output("File to write, or folder for a format that is one.")
@options.force
@options.as_json
@options.debug
def command(
    patch: str,
    to: str,
    base: str | None,
    strict: bool,
    skip_unsupported: bool,
    max_rank: int | None,
    output: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Write a PATCH in another tool's format.

    \b
    Example:
      graft export skill.safetensors --to lora --base embedded:all-MiniLM-L6-v2 -o runs/adapter
    """
    from graft.files.claims import claim_output
    from graft.files.location import local_paths
    from graft.hub.pull import pull_patch
    from graft.interop.exporting import export_patch

    claim = claim_output(output, is_folder=EXPORT_FORMATS[to].is_folder, force=force, inputs=local_paths(patch, base))
    how: dict[str, Any] = {"strict": strict, "skip_unsupported": skip_unsupported, "max_rank": max_rank}
    exported = export_patch(pull_patch(patch), to, claim, base=base, **how)
    lines = [f"skipped {name}: {reason}" for name, reason in exported.skipped.items()]
    if exported.n_missed:
        lines.append(
            f"{exported.n_missed:,} of {exported.k:,} values are out of reach, by at most {exported.largest_miss:.1e}"
        )
    if exported.lost_signs:
        lines.append(f"{exported.lost_signs:,} values of the base turn from -0.0 into +0.0 when it is merged")
    and_whole = f" and {exported.dense} whole tensors" if exported.dense else ""
    result = {
        "output": str(output),
        "to": to,
        "k": exported.k,
        "dense": exported.dense,
        "skipped": dict(exported.skipped),
    }
    result |= {"missed": exported.n_missed, "largest_miss": exported.largest_miss}
    result["lost_signs"] = exported.lost_signs
    options.show(result, as_json, [*lines, f"wrote {output} with {exported.k:,} entries{and_whole}"])
