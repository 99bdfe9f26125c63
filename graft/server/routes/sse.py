"""Server-sent events, in which a stream of an answer's parts is written."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

DONE = b"data: [DONE]\n\n"


def write_event(value: dict[str, Any]) -> bytes:
    """Write one event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n\n"


def respond_with(events: AsyncIterator[bytes]) -> Any:
    """Return a response that sends events as they come."""
    from starlette.responses import StreamingResponse

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)
