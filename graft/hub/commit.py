"""Commit to the Hub: sign in, send all files at once, and recover from a failure midway."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from graft.errors import HubError
from graft.files.hub_failures import (
    TRANSIENT,
    explain_failure,
    failures,
    is_broken_connection,
    is_garbled,
    status_of,
    wait_of,
)

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

RACED = 412  # status of a commit that another one overtook
UNKNOWN = "it is not known whether this was published (pushing again makes no second commit)"
PATIENCE = 120.0  # seconds without a byte from the Hub; the library itself would wait for ever


def sign_in(repository: str, *, offline_too: bool) -> str:
    """Return the repository's full id, once the Hub has accepted the user's token.

    Args:
        repository: NAME or ORG/NAME; NAME belongs to the user.
        offline_too: whether the id as given will do where the Hub cannot be asked.

    Raises:
        HubError: there is no token, it is not accepted, or there is no connection.
    """
    from huggingface_hub import HfApi

    try:
        with _patience():
            user = HfApi().whoami()["name"]
    except failures() as error:
        if offline_too:
            return repository
        raise HubError(explain_failure(error, repository)) from error
    return repository if "/" in repository else f"{user}/{repository}"


def send_commit(
    repository: str,
    files: Mapping[str, bytes],
    message: str,
    *,
    private: bool,
    revision: str | None,
    create_pr: bool,
) -> CommitInfo:
    """Send all files as one commit on the present head of a branch.

    A commit that another one overtook is tried once more on the new head. So is a commit whose answer was lost: if it
    was made after all, the files are found unchanged and no second commit follows. A pull request is not repeated
    then.

    Raises:
        HubError: it was not made.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    heads: list[str | None] = []
    try:
        with _patience():
            api.create_repo(repository, private=private or None, exist_ok=True)
            _make_branch(api, repository, None if create_pr else revision)
            commit = partial(_commit, api, repository, files, message, revision, create_pr, heads)
            try:
                return commit()
            except failures() as error:
                if not _may_repeat(error, create_pr):
                    raise
                time.sleep(wait_of(error))
                return commit()
    except failures() as error:
        outcome = "not published" if _is_unchanged(api, repository, revision, heads, error) else UNKNOWN
        raise HubError(f"{outcome}: {explain_failure(error, repository, revision)}") from error


def _commit(
    api: HfApi,
    repository: str,
    files: Mapping[str, bytes],
    message: str,
    revision: str | None,
    create_pr: bool,
    heads: list[str | None],
) -> CommitInfo:
    """Try once; append to `heads` the head that the commit builds on."""
    from huggingface_hub import CommitOperationAdd

    heads.append(api.model_info(repository, revision=revision).sha)
    return api.create_commit(
        repository,
        [CommitOperationAdd(name, data) for name, data in sorted(files.items())],
        commit_message=message,
        revision=revision,
        create_pr=create_pr,
        parent_commit=heads[-1],  # else a commit made in between would be built upon unseen
    )


def _is_unchanged(api: HfApi, repository: str, revision: str | None, heads: list[str | None], error: Exception) -> bool:
    """Return whether certainly nothing was published: it was refused, never sent, or the branch is where it was."""
    status = status_of(error)
    if not heads or (status is not None and 400 <= status < 500):
        return True
    try:
        return api.model_info(repository, revision=revision, timeout=PATIENCE).sha == heads[0]
    except failures():
        return False


def _make_branch(api: HfApi, repository: str, revision: str | None) -> None:
    from huggingface_hub.errors import RevisionNotFoundError

    if revision is None:
        return
    try:
        api.model_info(repository, revision=revision)
    except RevisionNotFoundError:
        api.create_branch(repository, branch=revision, exist_ok=True)


def _may_repeat(error: Exception, create_pr: bool) -> bool:
    """Return whether a second try may help and cannot publish twice; uploads were already tried six times."""
    if isinstance(error, RuntimeError):
        return False
    status = status_of(error)
    if status in (RACED, 429):
        return True
    is_lost = status in TRANSIENT or is_broken_connection(error) or is_garbled(error)
    return is_lost and not create_pr


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Give up on a Hub that has gone silent, inside the block."""
    from huggingface_hub import get_session

    session = get_session()
    before = session.timeout
    session.timeout = PATIENCE
    try:
        yield
    finally:
        session.timeout = before
