"""Server-sent events, in which a stream of an answer's parts is written."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from graft.server.refusal import Refusal, note_failure, refuse_late

DONE = b"data: [DONE]\n\n"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class EventStream:
    """An answer that is sent in parts as they come; an error is its last event.

    Args:
        events: what is sent, an object each; begun when the answer is, if it ever is.
        drop: called when the answer ends, however it does: what is still worked on is wanted no more.
    """

    def __init__(self, events: AsyncIterator[dict[str, Any]], drop: Callable[[], None]) -> None:
        self._events, self._drop = events, drop
        self._status = 499  # unless it comes to its end, the client has gone

    def respond(self, path: str, seconds: float, end: float, count: Callable[[int], None]) -> Any:
        """Return the response, an application of its own.

        Args:
            path: of the route, for the operator.
            seconds: that a request has.
            end: when these are over, by the clock of the loop.
            count: called when the answer has ended, with the status that it would have had as a whole.
        """
        from starlette.responses import StreamingResponse

        async def respond(scope: Any, receive: Any, send: Any) -> None:
            """Send the parts, then drop what is left of the work and count the answer."""
            parts = self._write(path, seconds, end)
            response = StreamingResponse(parts, media_type="text/event-stream", headers=_HEADERS)
            try:
                await response(scope, receive, send)
            finally:  # also where the client has gone before the first event
                self._drop()
                count(self._status)

        return respond

    async def _write(self, path: str, seconds: float, end: float) -> AsyncIterator[bytes]:
        try:
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    async with asyncio.timeout_at(end):
                        event = await anext(self._events)
                    yield write_event(event)
            self._status = 200
            yield DONE
        except Exception as error:
            refusal: Refusal = refuse_late(seconds) if isinstance(error, TimeoutError) else note_failure(error, path)
            self._status = refusal.status
            yield write_event(refusal.to_json())


def write_event(value: dict[str, Any]) -> bytes:
    """Write one event, in ASCII: there are readers that end a line at U+2028 and U+0085 too."""
    return b"data: " + json.dumps(value, allow_nan=False).encode() + b"\n\n"
