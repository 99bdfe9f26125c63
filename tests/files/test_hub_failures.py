"""Each failure is explained in one line, whichever HTTP client lies below."""

from __future__ import annotations

import json
from typing import Any

import pytest
from huggingface_hub import errors

from graft.files.hub_failures import explain_failure, failures, is_broken_connection, is_garbled, status_of, wait_of

CLIENT_ERROR: Any = errors.HfHubHTTPError.__bases__[0]


class Answer:
    """A response with only the attributes that the errors read."""

    request = None

    def __init__(self, status: int, **headers: str) -> None:
        self.status_code, self.headers = status, headers


def http(status: int, kind: Any = errors.HfHubHTTPError, told: str | None = None, **headers: str) -> Exception:
    error: Exception = kind("Client Error.\n\nNo.", response=Answer(status, **headers), server_message=told)
    return error


def wrapped(inner: Exception, kind: type[Exception] = RuntimeError) -> Exception:
    error = kind("Error while uploading")
    error.__cause__ = inner
    return error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (http(401, errors.GatedRepoError), "o/n is gated: ask for access on its page, then set HF_TOKEN"),
        (http(404, errors.RepositoryNotFoundError), "there is no o/n that you may see: check the name"),
        (http(404, errors.RevisionNotFoundError), "o/n has no revision v1: it never had, or it is gone"),
        (errors.OfflineModeIsEnabled("no"), "HF_HUB_OFFLINE is set and o/n is not in the cache"),
        (wrapped(errors.OfflineModeIsEnabled("no"), errors.LocalEntryNotFoundError), "HF_HUB_OFFLINE is set and o/n"),
        (errors.LocalTokenNotFoundError("no"), "the Hub must know who you are: set HF_TOKEN or run"),
        (errors.HFValidationError("no"), "'o/n' is not a Hub id: write NAME or ORG/NAME"),
        (http(401), "the Hub does not accept the token"),
        (http(403), "the token has no right to do that in o/n"),
        (http(412), "o/n was changed by someone else at the same time, twice"),
        (http(429, **{"Retry-After": "9"}), "the Hub allows no more requests for now (wait 9 s)"),
        (http(503), "the Hub is in trouble (HTTP 503)"),
        (wrapped(http(500)), "the Hub is in trouble (HTTP 500)"),
        (http(400, told="too wide\nby far"), "the Hub refuses (HTTP 400: too wide)"),
        (CLIENT_ERROR("reset"), "the connection to the Hub broke (HTTPError): try again"),
        (OSError("Consistency check failed: 1 of 2"), "other bytes came than were announced"),
        (json.JSONDecodeError("x", "y", 0), "the Hub's answer was cut short or is no answer of a Hub"),
        (KeyError("url"), "the Hub's answer was cut short or is no answer of a Hub"),
        (ValueError("Odd.\nmore"), "Odd"),
        (errors.LocalEntryNotFoundError("no copy,\nno line"), "no copy,"),
    ],
)
def test_each_failure_has_its_line(error: Exception, line: str) -> None:
    assert isinstance(error, failures())
    said = explain_failure(error, "o/n", "v1")
    assert said.startswith(line)
    assert "\n" not in said


def test_what_is_told_apart() -> None:
    assert [status_of(error) for error in (http(404), wrapped(http(500)), ValueError("x"))] == [404, 500, None]
    assert [is_broken_connection(error) for error in (CLIENT_ERROR("x"), wrapped(CLIENT_ERROR("x")))] == [True, True]
    assert [is_broken_connection(error) for error in (http(500), OSError("x"), ValueError("x"))] == [False] * 3
    assert [is_garbled(error) for error in (KeyError("x"), ValueError("x"))] == [True, False]


@pytest.mark.parametrize(("header", "seconds"), [("9", 9), ("900", 60), ("Wed, 21 Oct", 1), (None, 1)])
def test_a_wish_to_wait_is_heeded_within_reason(header: str | None, seconds: int) -> None:
    assert wait_of(http(429, **({"Retry-After": header} if header else {}))) == seconds
