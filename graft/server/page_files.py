"""The page at /: files of this package, sent with headers that let it load nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graft.server.refusal import MISSING, Refusal
from graft.server.service import Service

_FOLDER = Path(__file__).with_name("page")
_TYPES = {
    "index.html": "text/html",
    "page.css": "text/css",
    "api.js": "text/javascript",
    "page.js": "text/javascript",
    "results.js": "text/javascript",
}
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
_POLICY += "base-uri 'none'; form-action 'none'; frame-ancestors *"
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


async def show_page(service: Service, request: Any) -> Any:
    """Send the page."""
    return _send("index.html")


async def show_file(service: Service, request: Any) -> Any:
    """Send one of the files that it loads; a request names no other."""
    return _send(request.path_params["name"])


def read_all() -> list[bytes]:
    """Return what is in each of the files, all of which must be there."""
    return [(_FOLDER / name).read_bytes() for name in _TYPES]


def _send(name: str) -> Any:
    from starlette.responses import Response

    if name not in _TYPES:
        raise Refusal(404, "there is no such file", MISSING)
    return Response((_FOLDER / name).read_bytes(), media_type=_TYPES[name], headers=_HEADERS)
