"""The command `graft push`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from graft_cli import options

if TYPE_CHECKING:
    from graft.hub.push import Pushed


@click.command("push")
@click.argument("patch")
@click.argument("repository", metavar="REPO_ID")
@click.option("--base-model", metavar="HUB_ID", help="Hub id of the base, if the patch was cut from a local copy.")
@click.option(
    "--base",
    metavar="MODEL",
    help="The base on this machine: publishes the digest of the result, for graft verify; and for --with-adapter, "
    "which takes the base on the Hub by default.",
)
@click.option("--license", "licence", help="License of the patch, such as mit. [default: the patch's, else the base's]")
@click.option(
    "--dataset", "datasets", multiple=True, metavar="HUB_ID", help="Dataset it was trained on; may be repeated."
)
@click.option("--recipe", type=click.Path(path_type=Path), help="YAML recipe that made it, published beside it.")
@click.option(
    "--with-adapter",
    is_flag=True,
    help="Publish an exact LoRA adapter beside it, which transformers loads with PEFT alone.",
)
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--revision", metavar="BRANCH", help="Branch to commit to; created if it is missing.")
@click.option("--create-pr", is_flag=True, help="Open a pull request instead.")
@click.option("--message", help="Commit message.")
@click.option("--dry-run", is_flag=True, help="Print the card, then the files; send nothing.")
@options.as_json
@options.debug
def command(
    patch: str,
    repository: str,
    base_model: str | None,
    base: str | None,
    licence: str | None,
    datasets: tuple[str, ...],
    recipe: Path | None,
    with_adapter: bool,
    private: bool,
    revision: str | None,
    create_pr: bool,
    message: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Publish a PATCH on the Hub: patch, card, plot and recipe in one commit.

    REPO_ID is NAME or ORG/NAME; the repository is created if it is missing. HF_TOKEN, HF_ENDPOINT and
    HF_HUB_OFFLINE mean what they mean to huggingface_hub. A patch whose metadata names a path of this machine is
    refused.

    With --base, and for patches of the embedded encoder always, the SHA-256 digest of the model that base and patch
    give is published in the patch and on the card: `graft verify --result` proves with it that a checkpoint is that
    model. A patch that states another digest is refused.

    \b
    Example:
      graft push skill.safetensors me/topics --base-model sentence-transformers/all-MiniLM-L6-v2 --dry-run
    """
    from graft.files.location import locate_patch
    from graft.hub.push import push_patch
    from graft.patch.format.declaration import FILE_NAME

    pushed = push_patch(
        locate_patch(patch, FILE_NAME).path,
        repository,
        base_model=base_model,
        base=base,
        licence=licence,
        datasets=datasets,
        recipe=recipe,
        with_adapter=with_adapter,
        private=private,
        revision=revision,
        create_pr=create_pr,
        message=message,
        dry_run=dry_run,
    )
    for note in pushed.notes:
        click.echo(f"note: {note}", err=True)
    options.show(_result(pushed, dry_run), as_json, _lines(pushed, dry_run))


def _result(pushed: Pushed, dry_run: bool) -> dict[str, object]:
    return {
        "repository": pushed.repository,
        "commit": pushed.commit,
        "pull_request": pushed.pull_request,
        "files": {name: len(data) for name, data in pushed.files.items()},
        "notes": list(pushed.notes),
        **({"card": pushed.card} if dry_run else {}),
    }


def _lines(pushed: Pushed, dry_run: bool) -> list[str]:
    files = options.columns((name, f"{len(data):,} bytes") for name, data in pushed.files.items())
    if dry_run:
        return [pushed.card, f"would commit to {pushed.repository}:", *files]
    target = f"{pushed.repository}@{pushed.commit}" if pushed.pull_request is None else pushed.pull_request
    return [*files, f"published as {target}"]
