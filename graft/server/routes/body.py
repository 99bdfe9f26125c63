"""Bodies: read as they come; past the limit nothing is kept, and little more is read."""

from __future__ import annotations

from typing import Any, TypeVar

from graft.server.forms import read_form
from graft.server.refusal import Refusal
from graft.server.service import Service

T = TypeVar("T")
READ_OUT = 4  # times the limit: up to so many bytes are read of a body that is too large


async def read_body(kind: type[T], request: Any, service: Service) -> T:
    """Read a request's JSON into its form, on the thread that reads texts: the loop serves others meanwhile.

    A body that is a little too large is read out, and dropped, before it is refused: closing a connection with bytes
    unread resets it, and the client may lose the refusal.

    Raises:
        Refusal: too large (413), of another type than JSON (415), or not as the form says (400).
    """
    most_bytes = service.limits.body_bytes
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":  # a page of another site could send others without being asked first
        raise Refusal(415, "send JSON, with the header Content-Type: application/json")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and (len(announced) >= 20 or int(announced) > READ_OUT * most_bytes):
        raise _too_large(most_bytes)
    parts, n_bytes = [], 0
    async for part in request.stream():
        n_bytes += len(part)
        if n_bytes > READ_OUT * most_bytes:
            break
        if n_bytes <= most_bytes:
            parts.append(part)
    if n_bytes > most_bytes:
        raise _too_large(most_bytes)
    form: T = await service.read(lambda _: read_form(kind, b"".join(parts)))
    return form


def _too_large(most_bytes: int) -> Refusal:
    return Refusal(413, f"the body is larger than {most_bytes:,} bytes", code="too_large", Connection="close")
