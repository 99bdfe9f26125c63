"""Refusals: what a request is told instead of an answer, in OpenAI's form."""

from __future__ import annotations

import logging
from typing import Any

from graft.errors import ConfigError, DataError, HubError, OverlapError, PatchError

INVALID, MISSING, FULL, SERVER = "invalid_request_error", "not_found_error", "rate_limit_error", "server_error"


class Refusal(Exception):
    """A request that gets no answer.

    Attributes:
        status: of HTTP.
        kind: OpenAI's type of the error.
        code: a word that a program can compare.
        headers: of the response.
    """

    def __init__(self, status: int, message: str, kind: str = INVALID, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status, self.kind, self.code = status, kind, code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the body of the response."""
        return {"error": {"message": str(self), "type": self.kind, "param": None, "code": self.code}}


def refuse_unknown_model(name: str, known: list[str]) -> Refusal:
    """Return the refusal of a skill that is not there."""
    there = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
    return Refusal(404, f"there is no skill {name[:80]!r}; there are: {there}", MISSING, "model_not_found")


def refuse_tokens(n_tokens: int, most: int, n_labels: int = 0) -> Refusal:
    """Return the refusal of a request whose texts are too many tokens together, some of them of label texts."""
    among = f", {n_labels:,} of them of label texts," if n_labels else ""
    return Refusal(400, f"{n_tokens:,} tokens{among} are more than {most:,} in one request", code="tokens")


def refuse_full(seconds: float) -> Refusal:
    """Return the refusal of a request for which there is no room in the queue."""
    retry = max(1, round(seconds))
    return Refusal(429, f"too many requests wait: try again in {retry} s", FULL, "queue_full", Retry_After=str(retry))


def refuse_late(seconds: float) -> Refusal:
    """Return the refusal of a request that took too long."""
    return Refusal(504, f"no answer within {seconds:g} s", SERVER, "timeout")


def explain_error(error: BaseException) -> Refusal:
    """Return what a client is told of an error; of an unexpected one its kind alone."""
    if isinstance(error, Refusal):
        return error
    message = " ".join(str(error).split())
    if isinstance(error, ConfigError | DataError):
        return Refusal(400, message)
    if isinstance(error, OverlapError):
        return Refusal(409, message, code="overlap")
    if isinstance(error, HubError):
        return Refusal(502, message, SERVER, "hub")
    if isinstance(error, PatchError):
        return Refusal(422, message, code="patch")
    return Refusal(500, f"the server failed on this request ({type(error).__name__})", SERVER, "internal")


def note_failure(error: BaseException, path: str) -> Refusal:
    """Return what a client is told of an error, and tell the operator more where it is no client's fault."""
    refusal = explain_error(error)
    if refusal.status == 500:
        logging.getLogger("graft.server").error("%s failed", path, exc_info=error)
    return refusal
