"""Pull a published patch: checked before use, and written completely or not at all."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from graft.arguments import checked
from graft.errors import HubError
from graft.files.claims import claim_output
from graft.files.hub_failures import explain_failure, failures
from graft.files.location import fetch_file, local_paths, locate_patch
from graft.files.outputs import new_folder
from graft.hub.push import CARD
from graft.hub.repo_files import NAMES
from graft.patch.format.declaration import FILE_NAME
from graft.patch.format.reading import load_patch, load_region
from graft.patch.skill_patch import Patch

OTHER_FILES = (CARD, *NAMES)
LARGEST = 2**24  # bytes of a file other than the patch


@dataclass(frozen=True)
class Pulled:
    """A fetched repository.

    Attributes:
        repository: its Hub id.
        revision: the commit, 40 hex digits.
        files: names of what was written.
        k: entries of the patch or mask.
    """

    repository: str
    revision: str | None
    files: tuple[str, ...]
    k: int


@checked
def pull_patch(reference: str | Path, out: Path | None = None, *, force: bool = False) -> Patch:
    """Load a patch from the Hub, or from a local file or folder.

    Args:
        reference: NAME or ORG/NAME, with @revision after it unless the newest is meant; or a local path. Pinned to
            a commit, a cached patch is loaded without any request.
        out: a folder to keep it in, with card, plot and recipe.
        force: replace an existing folder.

    Raises:
        HubError: the Hub has none, or sent other bytes than it announced.
        PatchFormatError: the file is not a patch; nothing is written.
    """
    if out is not None:
        pull_folder(str(reference), out, force=force)
        return load_patch(out)
    return load_patch(locate_patch(reference, FILE_NAME).path)


def pull_folder(reference: str, out: Path, *, force: bool = False) -> Pulled:
    """Fetch a patch or mask with its card, plot and recipe into a new folder; nothing else is fetched.

    Raises:
        HubError, PatchFormatError: as `pull_patch`; there is no folder then.
        OutputError: the folder exists and `force` is off.
    """
    claim = claim_output(out, is_folder=True, force=force, inputs=local_paths(reference))
    fetched = fetch_file(reference, FILE_NAME)
    region, _ = load_region(fetched.path)
    pinned = f"{fetched.id}@{fetched.revision}" if fetched.revision else reference
    others = {name: fetch_file(pinned, name).path for name in _find_others(pinned)}
    with new_folder(claim) as folder:
        for name, path in {FILE_NAME: fetched.path, **others}.items():
            shutil.copyfile(path, folder / name)
    return Pulled(str(fetched.id), fetched.revision, (FILE_NAME, *others), len(region))


def _find_others(pinned: str) -> list[str]:
    """Return the names of the other files that exist and are no larger than `LARGEST`."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    repository, _, revision = pinned.partition("@")
    try:
        infos = HfApi().get_paths_info(repository, list(OTHER_FILES), revision=revision or None)
    except failures() as error:
        raise HubError(explain_failure(error, repository, revision)) from error
    sizes = {item.path: item.size for item in infos if isinstance(item, RepoFile)}
    return [name for name in OTHER_FILES if sizes.get(name, LARGEST + 1) <= LARGEST]
