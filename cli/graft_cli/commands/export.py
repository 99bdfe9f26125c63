"""graft export."""

from __future__ import annotations

from pathlib import Path

import click

from graft.interop.registry import EXPORT_FORMATS
from graft_cli import options


@click.command("export")
@click.argument("patch")
@options.choose("--to", required=True, registry=EXPORT_FORMATS, help="The format.")
@click.option("--base", metavar="MODEL", help="The model it was cut from; for differences, stored base values also do.")
@click.option("--strict", is_flag=True, help="Refuse where differences cannot reach every value.")
@click.option("--skip-unsupported", is_flag=True, help="Leave out tensors that the format cannot hold.")
@options.output("File to write; a folder where the format is one.")
@options.force
@options.as_json
@options.debug
def command(
    patch: str,
    to: str,
    base: str | None,
    strict: bool,
    skip_unsupported: bool,
    output: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Write a PATCH in another tool's format.

    \b
    Example:
      graft export skill.safetensors --to shira --base embedded:all-MiniLM-L6-v2 -o runs/adapter
    """
    from graft.files.claims import claim_output
    from graft.files.location import local_paths
    from graft.hub.pull import pull_patch
    from graft.interop.exporting import export_patch

    claim = claim_output(output, is_folder=EXPORT_FORMATS[to].is_folder, force=force, inputs=local_paths(patch, base))
    done = export_patch(pull_patch(patch), to, claim, base=base, strict=strict, skip_unsupported=skip_unsupported)
    lines = [f"skipped {name}: {reason}" for name, reason in done.skipped.items()]
    if done.n_missed:
        lines.append(f"{done.n_missed:,} of {done.k:,} values are out of reach, by at most {done.largest_miss:.1e}")
    whole = f" and {done.dense} whole tensors" if done.dense else ""
    result = {"output": str(output), "to": to, "k": done.k, "dense": done.dense, "skipped": dict(done.skipped)}
    result |= {"missed": done.n_missed, "largest_miss": done.largest_miss}
    options.show(result, as_json, [*lines, f"wrote {output} with {done.k:,} entries{whole}"])
