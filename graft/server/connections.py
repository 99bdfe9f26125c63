"""Connections: those on which nothing goes on are closed, for uvicorn waits without end for headers and for readers.

Where there are too many, a new one takes the place of the one that has waited longest for a request to come whole, so
that who opens many, and opens them again, closes their own. No address is looked at: behind a proxy all have one.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable
from typing import Any

from graft.server.limits import Limits

TICK = 1.0  # seconds between two looks at the connections


class IdleTimeouts:
    """How long nothing has gone on on each connection of a server: no request under way, or an answer that is not read.

    Args:
        limits: how long that may last.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._since: dict[Any, tuple[object, float]] = {}  # connection -> its last request, and from when on

    def close_idle(self, connections: Iterable[Any], now: float) -> None:
        """Close the connections, protocols of uvicorn, whose time is over; `now` is in seconds of any clock."""
        idle = {}
        for connection in connections:
            request, transport = connection.cycle, connection.transport
            if request is not None and not request.response_complete and not connection.flow.write_paused:
                continue
            last, since = self._since.get(connection, (request, now))
            idle[connection] = request, since if last is request else now
            is_unread = transport.get_write_buffer_size() > 0
            if now - idle[connection][1] > (self._limits.seconds if is_unread else self._limits.idle_seconds):
                transport.abort()
        self._since = idle


def make_room(connections: Iterable[Any], most: int, newest: Any) -> None:
    """Close the connections, protocols that `protocol_with_room` makes, that are too many and have waited longest.

    One whose request has come whole and is not answered is left alone, and so is the newest: where all others are such,
    its request is refused.
    """
    staying = [connection for connection in connections if not connection.transport.is_closing()]
    waiting = [connection for connection in staying if connection is not newest and _waits_for_request(connection)]
    for connection in heapq.nsmallest(len(staying) - most, waiting, key=lambda one: one.waiting_since):
        connection.transport.abort()


def _waits_for_request(connection: Any) -> bool:
    request = connection.cycle
    return request is None or request.response_complete or request.more_body


def protocol_with_room(most: int) -> Any:
    """Return uvicorn's protocol for connections, which makes room for a new one where there are so many already."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class ProtocolWithRoom(H11Protocol):
        """A connection that knows since when it has waited for a request."""

        waiting_since = 0.0

        def connection_made(self, transport: Any) -> None:
            """Wait from now on, and make room."""
            super().connection_made(transport)
            self.waiting_since = self.loop.time()
            make_room(self.connections, most, newest=self)

        def on_response_complete(self) -> None:
            """Wait anew."""
            self.waiting_since = self.loop.time()
            super().on_response_complete()

    return ProtocolWithRoom


async def serve_with_timeouts(server: Any, listener: Any, limits: Limits) -> None:
    """Run a server of uvicorn until it ends, and close idle connections meanwhile."""
    closing = asyncio.ensure_future(_close_idle(server, limits))
    try:
        await server.serve([listener])
    finally:
        closing.cancel()


async def _close_idle(server: Any, limits: Limits) -> None:
    timeouts, tick, now = IdleTimeouts(limits), min(TICK, limits.idle_seconds / 4), 0.0
    while True:
        await asyncio.sleep(tick)
        now += tick  # not the clock's: while the loop stood still, requests arrived that it has yet to read
        timeouts.close_idle(list(server.server_state.connections), now)
