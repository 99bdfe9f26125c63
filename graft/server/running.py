"""Running: an application behind uvicorn, until a signal ends it; what runs is finished first."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

from graft.errors import ConfigError
from graft.server.app import build_app
from graft.server.service import Service

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
MOST_CONNECTIONS = 1000


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
    return host in _LOOPBACK


def run_service(
    service: Service, host: str = "127.0.0.1", port: int = 8000, tell: Callable[[str], None] = lambda url: None
) -> None:
    """Serve until SIGINT or SIGTERM; then refuse what comes, finish what runs, and return.

    Args:
        service: what is served.
        host, port: to listen at; port 0 for any that is free.
        tell: called with the address, once requests are answered.

    Raises:
        ConfigError: the address cannot be had.
    """
    server = _make_server(service, host, port)
    sockets = [_bind(server.config, host, port)]
    address = f"[{host}]" if ":" in host else host
    with contextlib.closing(sockets[0]):
        asyncio.run(_serve(server, sockets, lambda: tell(f"http://{address}:{sockets[0].getsockname()[1]}")))


def _make_server(service: Service, host: str, port: int) -> Any:
    import uvicorn

    app = build_app(service, only_loopback=is_loopback(host))
    settings: dict[str, Any] = {
        "log_level": "warning",
        "server_header": False,
        "limit_concurrency": MOST_CONNECTIONS,
        "timeout_keep_alive": 5,
        "timeout_graceful_shutdown": round(service.limits.drain_seconds),
        "lifespan": "on",
    }
    server: Any = uvicorn.Server(uvicorn.Config(app, host=host, port=port, **settings))
    server.capture_signals = contextlib.nullcontext  # it would raise them anew afterwards
    return server


def _bind(config: Any, host: str, port: int) -> Any:
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"{host}:{port} cannot be listened at ({error.strerror or error})") from error
    return listener


async def _serve(server: Any, sockets: list[Any], tell: Callable[[], None]) -> None:
    with _ending(server):
        serving = asyncio.ensure_future(server.serve(sockets))
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
