"""Running: an application behind uvicorn, until a signal ends it; what runs is finished first."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

from graft.errors import ConfigError
from graft.server.app import build_app
from graft.server.connections import protocol_with_room, serve_with_timeouts
from graft.server.limits import Limits
from graft.server.service import Service

MOST_CONNECTIONS, MOST_HEADER_BYTES = 1000, 2**16


def require_packages() -> None:
    """Refuse to serve where the packages for it are missing.

    Raises:
        ConfigError: naming the extra that brings them.
    """
    import importlib.util

    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"serving needs {', '.join(missing)}: pip install 'skillgraft[serve]'")


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen_at(host: str, port: int) -> socket.socket:
    """Take an address, before the costly part; connections are refused until `run_service`.

    Raises:
        ConfigError: the address cannot be had.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, UnicodeError) as error:
        listener.close()
        raise ConfigError(
            f"{host}:{port} cannot be listened at ({getattr(error, 'strerror', None) or error})"
        ) from error
    return listener


def run_service(service: Service, listener: socket.socket, *, tell: Callable[[str], None] = lambda url: None) -> None:
    """Serve until SIGINT or SIGTERM; then refuse what comes, finish what runs, and return.

    Args:
        service: what is served.
        listener: of the address, as `listen_at` gives it.
        tell: called with the address, once requests are answered.
    """
    host, port = listener.getsockname()[:2]
    server = make_server(service, only_loopback=is_loopback(host))
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    asyncio.run(_serve(server, listener, service.limits, lambda: tell(address)))


def make_server(service: Service, *, only_loopback: bool = True) -> Any:
    """Return the uvicorn server of a service, whose requests are bounded in size and number before they are read."""
    import uvicorn

    settings: dict[str, Any] = {
        "http": protocol_with_room(MOST_CONNECTIONS),  # over h11, the only one that bounds the size of headers
        "h11_max_incomplete_event_size": MOST_HEADER_BYTES,
        "ws": "none",
        "log_level": "warning",
        "server_header": False,
        "limit_concurrency": MOST_CONNECTIONS + 1,  # where there is no room to be made, a request is refused with 503
        "timeout_keep_alive": 5,
        "timeout_graceful_shutdown": round(service.limits.drain_seconds),
        "lifespan": "on",
    }
    server: Any = uvicorn.Server(uvicorn.Config(build_app(service, only_loopback=only_loopback), **settings))
    server.capture_signals = contextlib.nullcontext  # it would raise them anew afterwards
    return server


async def _serve(server: Any, listener: socket.socket, limits: Limits, tell: Callable[[], None]) -> None:
    with _ending(server):
        serving = asyncio.ensure_future(serve_with_timeouts(server, listener, limits))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if server.started:
            tell()
        await serving


@contextlib.contextmanager
def _ending(server: Any) -> Iterator[None]:
    """Let the signals that end a process end the server instead; a second one ends it without waiting."""
    loop = asyncio.get_running_loop()
    numbers = [signal.SIGINT, signal.SIGTERM]
    before = [signal.getsignal(number) for number in numbers]
    for number in numbers:
        loop.add_signal_handler(number, server.handle_exit, number, None)
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
