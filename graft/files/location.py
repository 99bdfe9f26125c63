"""Locate a model or patch named on the command line: a local path, an embedded model, or the Hub.

An existing path is local; what starts with "/", "." or "~" is local only and never asks the Hub; otherwise
NAME or ORG/NAME[@revision] is a Hub id. A file from the Hub is taken only with the hash it was announced with.
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from pathlib import Path

from graft.errors import CheckpointError, HubError
from graft.files.embedded import name_of, place_of
from graft.files.hub_failures import TRANSIENT, explain_failure, failures, is_broken_connection, status_of, wait_of
from graft.files.hub_models import fetch_model, find_cached, require_hub_id
from graft.files.registry import EMBEDDED


@dataclass(frozen=True)
class Located:
    """A model or patch on this machine, with its name and its Hub id.

    Attributes:
        path: the local folder or file.
        name: a name without any path, for people and for patch files.
        id: Hub id, None for a local one.
        revision: 40 hex digits of the Hub commit, where there is one.
    """

    path: Path
    name: str
    id: str | None = None
    revision: str | None = None


def locate(reference: str | Path) -> Located:
    """Find a model, fetching it from the Hub where the reference is a Hub id.

    Raises:
        CheckpointError: it is nowhere; the message says where was looked.
    """
    text = str(reference)
    if text in EMBEDDED:
        return _locate_embedded(text)
    return _locate_on_hub(text) if is_on_hub(reference) else _locate_local(text)


def locate_here(reference: str) -> Located | None:
    """Find a model without asking the Hub: a local path, an embedded model, or what the Hub's cache holds whole."""
    try:
        if not is_on_hub(reference):
            return locate(reference)
    except CheckpointError:
        return None
    repository, _, revision = reference.partition("@")
    folder = find_cached(repository, revision or None)
    return None if folder is None else _of_snapshot(folder, repository)


def locate_patch(reference: str | Path, filename: str) -> Located:
    """Find a patch or mask, fetching its one file from the Hub where the reference is a Hub id.

    Pinned to a commit (40 hex digits), a cached file is found without any request.

    Args:
        reference: as in `locate`.
        filename: what a Hub repository calls the file.

    Raises:
        CheckpointError: a local path that is not there.
        HubError: the Hub gave none; the message says why, and that no local path has the name either.
    """
    if not is_on_hub(reference):
        return _locate_local(str(reference))
    try:
        return fetch_file(str(reference), filename)
    except HubError as error:
        raise HubError(f"{reference}: no such local path, and the Hub gave none either ({error})") from error


def is_on_hub(reference: str | Path) -> bool:
    """Return whether a reference can only mean the Hub: it is no local path and may be a Hub id.

    Raises:
        CheckpointError: a path that is local only, and is not there; or a text that is neither a path nor a Hub id.
    """
    text = str(reference)
    if text in EMBEDDED or _local_path(text) is not None:
        return False
    if isinstance(reference, Path) or text.startswith(("/", ".", "~")):
        raise CheckpointError(f"{text}: no such file or folder")
    try:
        require_hub_id(text)
    except ValueError as error:
        fact = f"{str(error)!r} is not a Hub id: write NAME or ORG/NAME, with @revision behind it"
        raise CheckpointError(f"{text}: no such local path, and {fact}") from error
    return True


def local_paths(*references: str | Path | None) -> list[Path]:
    """Return the local paths behind references, those of the Hub in its cache; nothing is fetched."""
    from huggingface_hub.constants import HF_HUB_CACHE

    paths = []
    for text in (str(reference) for reference in references if reference is not None):
        if text in EMBEDDED:
            paths.append(place_of(EMBEDDED[text]))
        elif (path := _local_path(text)) is not None:
            paths.append(path)
        else:
            paths.append(Path(HF_HUB_CACHE, f"models--{text.partition('@')[0].replace('/', '--')[:200]}"))
    return paths


def fetch_file(reference: str, filename: str) -> Located:
    """Fetch one file of a Hub repository, from the cache or the Hub.

    Raises:
        HubError: it cannot be had, or its bytes are not the announced ones; these are not kept in the cache.
    """
    from huggingface_hub.errors import RemoteEntryNotFoundError

    repository, _, revision = reference.partition("@")
    try:
        require_hub_id(reference)
    except ValueError as error:
        raise HubError(f"{str(error)!r} is not a Hub id: write NAME or ORG/NAME, with @revision behind it") from error
    try:
        path = _download(repository, filename, revision or None)
    except RemoteEntryNotFoundError as error:
        raise HubError(f"{repository} holds no {filename}") from error
    except failures() as error:
        raise HubError(explain_failure(error, repository, revision)) from error
    _refuse_other_bytes(path, repository)
    commit = path.parents[len(Path(filename).parts) - 1].name
    return Located(path, repository.rpartition("/")[2], repository, commit if _is_commit(commit) else None)


def _download(repository: str, filename: str, revision: str | None) -> Path:
    """Fetch a file, and try once more after a transient failure: the library gives up on some at once."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, filename, revision=revision))
    except LocalEntryNotFoundError:  # tried again and again already
        raise
    except failures() as error:
        if not (is_broken_connection(error) or status_of(error) in TRANSIENT):
            raise
        time.sleep(wait_of(error))
        return Path(hf_hub_download(repository, filename, revision=revision))


def _refuse_other_bytes(path: Path, repository: str) -> None:
    """Compare a cached file with the hash that names its blob: SHA-256, or git's SHA-1 of a small file.

    Where the file system has no links the cache keeps no hash, and only the file's own checks remain.
    """
    blob = path.resolve()
    if len(blob.name) == 64:
        with blob.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    elif len(blob.name) == 40:
        data = blob.read_bytes()
        digest = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    else:
        return
    if re.fullmatch("[0-9a-f]+", blob.name) and digest != blob.name:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise HubError(f"{path.name} of {repository} came with other bytes than were announced: fetch it again")


def _is_commit(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{40}", text) is not None


def _locate_local(text: str) -> Located:
    path = _local_path(text)
    if path is None:
        raise CheckpointError(f"{text}: no such file or folder")
    return Located(path, path.resolve().name)


def _local_path(text: str) -> Path | None:
    """Return the local file or folder of that name; None where there is none, or no file can have the name."""
    try:
        path = Path(text).expanduser()
        return path if text and path.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long, not a name of files, of no known user
        return None


def _locate_embedded(text: str) -> Located:
    entry = EMBEDDED[text]
    return Located(entry.load()(entry), name_of(entry))


def _locate_on_hub(text: str) -> Located:
    repository, _, revision = text.partition("@")
    try:
        folder = fetch_model(repository, revision or None)
    except failures() as error:
        fact = explain_failure(error, repository, revision)
        raise CheckpointError(f"{text}: no such local path, and the Hub gave none either ({fact})") from error
    return _of_snapshot(folder, repository)


def _of_snapshot(folder: Path, repository: str) -> Located:
    return Located(folder, repository.rpartition("/")[2], repository, folder.name if _is_commit(folder.name) else None)
