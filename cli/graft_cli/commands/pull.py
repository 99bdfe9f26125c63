"""The command `graft pull`."""

from __future__ import annotations

from pathlib import Path

import click

from graft_cli import options


@click.command("pull")
@click.argument("repository", metavar="REPO_ID[@REVISION]")
@options.output("Folder to make.")
@options.force
@options.as_json
@options.debug
def command(repository: str, output: Path, force: bool, as_json: bool) -> None:
    """Fetch a patch from the Hub into a folder, with its card, plot and recipe.

    The patch is checked before the folder is made. Every command that takes a PATCH also takes REPO_ID[@REVISION]
    itself; where REVISION is a commit (40 hex digits), a cached patch is used without any request.

    \b
    Example:
      graft pull me/topics -o topics
    """
    from graft.hub.pull import pull_folder

    pulled = pull_folder(repository, output, force=force)
    result = {"output": str(output), "repository": pulled.repository, "revision": pulled.revision}
    lines = [f"{pulled.repository}@{pulled.revision}: {pulled.k:,} entries", f"wrote {output}"]
    options.show({**result, "files": list(pulled.files), "k": pulled.k}, as_json, lines)
