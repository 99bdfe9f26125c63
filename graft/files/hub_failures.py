"""Failures between here and the Hub: what went wrong and what to do about it, in one line each.

Only `huggingface_hub.errors` is relied on: the HTTP client below it changes from one release to the next.
"""

from __future__ import annotations

import json
from typing import cast

LOGIN = "set HF_TOKEN or run `hf auth login`"
TRANSIENT = (429, 500, 502, 503, 504)  # statuses after which the same request may succeed


def failures() -> tuple[type[Exception], ...]:
    """Return the exceptions that huggingface_hub raises where a request fails.

    Its own HTTP error derives from the client's, which covers broken connections and timeouts, and from OSError;
    bad names and malformed answers are ValueError or KeyError, a failed upload is RuntimeError.
    """
    from huggingface_hub.errors import HfHubHTTPError

    bases = cast("tuple[type[Exception], ...]", HfHubHTTPError.__bases__)
    return (*bases, ValueError, KeyError, RuntimeError)


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status behind a failure; None where there was no answer."""
    response = getattr(root_of(error), "response", None)
    status = getattr(response, "status_code", None)
    return status if isinstance(status, int) else None


def is_broken_connection(error: BaseException) -> bool:
    """Return whether no answer came: the connection broke, timed out or was never made."""
    from huggingface_hub.errors import HfHubHTTPError

    client_error = HfHubHTTPError.__bases__[0]
    return isinstance(root_of(error), client_error) and status_of(error) is None


def is_garbled(error: BaseException) -> bool:
    """Return whether an answer came that cannot be read: cut short, or not what was asked for."""
    unreadable = (json.JSONDecodeError, UnicodeDecodeError, KeyError)
    return isinstance(root_of(error), unreadable)


def root_of(error: BaseException) -> BaseException:
    """Return the failure within the wrappers that the library puts around it."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    while isinstance(error, (RuntimeError, LocalEntryNotFoundError)) and error.__cause__ is not None:
        error = error.__cause__
    return error


def explain_failure(error: BaseException, repository: str, revision: str | None = None) -> str:
    """Explain in one line what is wrong, and what to do.

    Args:
        error: one of `failures()`.
        repository: the Hub id that was asked for.
        revision: of it, where one was named.
    """
    from huggingface_hub import errors

    failure = root_of(error)
    explanations = (
        (errors.GatedRepoError, f"{repository} is gated: ask for access on its page, then {LOGIN}"),
        (
            errors.RepositoryNotFoundError,
            f"there is no {repository} that you may see: check the name; if it is private, {LOGIN}",
        ),
        (
            errors.RevisionNotFoundError,
            f"{repository} has no revision {revision or 'main'}: it never had, or it is gone; "
            "leave it out for the newest",
        ),
        (
            errors.OfflineModeIsEnabled,
            f"HF_HUB_OFFLINE is set and {repository} is not in the cache: unset it and fetch it once",
        ),
        (errors.LocalTokenNotFoundError, f"the Hub must know who you are: {LOGIN}"),
        (errors.HFValidationError, f"{repository!r} is not a Hub id: write NAME or ORG/NAME, with @revision behind it"),
    )
    for kind, line in explanations:
        if isinstance(failure, kind):
            return line
    return _explain_status(failure, repository)


def _explain_status(error: BaseException, repository: str) -> str:
    status = status_of(error)
    message = getattr(error, "server_message", None) or str(error).split("\n\n")[-1]
    first_line = " ".join(message.split("\n")[0].split()) or type(error).__name__
    if status == 401:
        return f"the Hub does not accept the token: {LOGIN} anew"
    if status == 403:
        return f"the token has no right to do that in {repository}: use one that may write, or a repository of yours"
    if status == 412:
        return f"{repository} was changed by someone else at the same time, twice: push again"
    if status == 429:
        return f"the Hub allows no more requests for now{_wait_of(error)}: try again later"
    if status is not None and status >= 500:
        return f"the Hub is in trouble (HTTP {status}): try again later"
    if status is not None:
        return f"the Hub refuses (HTTP {status}: {first_line[:200]})"
    if is_broken_connection(error):
        return f"the connection to the Hub broke ({type(error).__name__}): try again"
    if first_line.startswith("Consistency check failed"):
        return "other bytes came than were announced: try again"
    if is_garbled(error):
        return "the Hub's answer was cut short or is no answer of a Hub: try again"
    return first_line.rstrip(".")


def wait_of(error: BaseException) -> int:
    """Return the seconds that the Hub asks to wait (Retry-After), 1 where it names none, 60 at most."""
    text = str(getattr(getattr(root_of(error), "response", None), "headers", {}).get("Retry-After", "1"))
    return min(int(text), 60) if text.isdecimal() else 1


def _wait_of(error: BaseException) -> str:
    return f" (wait {wait_of(error)} s)"
