"""The command `graft apply`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from graft_cli import options


@click.command("apply")
@click.argument("model")
@click.argument("patches", nargs=-1, required=True, metavar="PATCH...")
@options.on_overlap
@options.allow_mismatch
@options.output("Folder to make.")
@options.plan
@options.force
@options.as_json
@options.debug
def command(
    model: str,
    patches: tuple[str, ...],
    on_overlap: Any,
    allow_mismatch: bool,
    output: Path,
    plan: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write a copy of MODEL with patches grafted on: the same shards, index, dtypes, tokenizer and configs.

    Everything is checked before the first write. Files are copied and patched in place, so that memory does
    not grow with the model. Where patches disagree, --on-overlap decides; sign and slerp measure from MODEL's own
    values, which are the base's unless --allow-mismatch is given.

    \b
    Example:
      graft apply embedded:all-MiniLM-L6-v2 skill.safetensors -o runs/merged
    """
    from graft.files.claims import claim_output
    from graft.files.location import local_paths, locate, locate_patch
    from graft.hub.pull import pull_patch
    from graft.memory.apply import plan_merge
    from graft.patch.format.declaration import FILE_NAME
    from graft.patch.merge import merge_patches
    from graft.patch.resizing import describe_vocabulary
    from graft.tensors.checkpoint import Checkpoint

    claim = claim_output(output, is_folder=True, force=force, inputs=local_paths(model, *patches))
    checkpoint = Checkpoint.open(locate(model).path)
    if plan:
        planned = plan_merge(checkpoint, [locate_patch(patch, FILE_NAME).path for patch in patches], output)
        options.show(planned.to_json(), as_json, planned.lines())
        return
    loaded = [pull_patch(patch) for patch in patches]
    total = sum(file.stat().st_size for file in set(checkpoint.files.values()))
    left_out: list[str] = []
    with _byte_bar("apply", total) as progress:
        k = merge_patches(
            checkpoint,
            loaded,
            claim,
            on_overlap=on_overlap,
            allow_mismatch=allow_mismatch,
            progress=progress,
            say=left_out.append,
        )
    notes = describe_vocabulary(output, loaded)
    for line in [*left_out, *(f"note: {note}" for note in notes)]:
        click.echo(line, err=True)
    result = {"output": str(output), "k": k} | ({"notes": notes} if notes else {})
    options.show(result, as_json, [f"wrote {output} with {k:,} entries grafted"])


@contextlib.contextmanager
def _byte_bar(what: str, total: int) -> Iterator[Callable[[int], object]]:
    """Show progress on stderr, in bytes with the time left, while the block runs; not where stderr is no terminal.

    Args:
        what: the command's name, shown before the bar.
        total: bytes to process.

    Yields:
        a function to call with each number of bytes just processed.
    """
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit="B", unit_scale=True, unit_divisor=1024, disable=None, leave=False) as bar:
        yield bar.update
