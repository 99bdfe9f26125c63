"""The command `graft inspect`."""

from __future__ import annotations

from pathlib import Path

import click

from graft_cli import options
from graft_cli.saving import describe_file, describe_lines


@click.command("inspect")
@click.argument("patch")
@options.as_json
@options.debug
def command(patch: str, as_json: bool) -> None:
    """Show what is in a PATCH: entries, density, size beside the entropy bound, and where it came from.

    The bound is log2 C(N, k) bits for the mask plus the bits of the raw values: no file could be smaller if every
    choice of k among the N weights were equally likely. The rank is that of the LoRA that `graft export --to lora`
    makes of the matrices. The file is compared with the hashes that it holds. For a patch on the Hub only the header is
    read, so that there is no rank, and only the hash of its table of tensors is compared.

    A file of importance weights can be shown too.
    """

    from graft.files.location import is_on_hub, locate_patch
    from graft.hub.remote_headers import describe_remote
    from graft.patch.format.declaration import FILE_NAME
    from graft.patch.format.reading import load_region
    from graft.train.importance.importance_file import is_importance_file

    if is_on_hub(patch):
        content = describe_remote(patch)
    else:
        path = locate_patch(patch, FILE_NAME).path
        file = path / FILE_NAME if path.is_dir() else path
        if is_importance_file(file):
            _show_importance(file, as_json)
            return
        region, provenance = load_region(file)
        content = describe_file(file, region, provenance)
    options.show(content, as_json, describe_lines(content))


def _show_importance(file: Path, as_json: bool) -> None:
    from graft.train.importance.importance_file import (
        describe_importance,
        describe_integrity,
        load_importance,
    )

    content = describe_importance(load_importance(file), file) | {"integrity": describe_integrity(file)}
    lines = options.columns((key.replace("_", " "), value) for key, value in content.items())
    options.show({"kind": "importance"} | content, as_json, lines)
