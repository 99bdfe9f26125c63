"""The application: routes, and what every request passes through: time, errors in one form, counts."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from graft.server.page_files import show_file, show_page
from graft.server.refusal import MISSING, Refusal, note_failure, refuse_late
from graft.server.routes.classify import label_texts
from graft.server.routes.completions import answer_chat, complete
from graft.server.routes.embeddings import embed, list_models, show_model
from graft.server.routes.skills import add_skill, list_skills, remove_skill
from graft.server.routes.sse import EventStream
from graft.server.routes.status import show_health, show_metrics
from graft.server.service import Hangup, Service

Handler = Callable[[Service, Any], Awaitable[Any]]
ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/", show_page),
    ("GET", "/page/{name}", show_file),
    ("GET", "/v1/models", list_models),
    ("GET", "/v1/models/{name}", show_model),
    ("POST", "/v1/embeddings", embed),
    ("POST", "/v1/completions", complete),
    ("POST", "/v1/chat/completions", answer_chat),
    ("POST", "/classify", label_texts),
    ("GET", "/skills", list_skills),
    ("POST", "/skills", add_skill),
    ("DELETE", "/skills/{name}", remove_skill),
    ("GET", "/health", show_health),
    ("GET", "/metrics", show_metrics),
)
_LOOPBACK = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)


def build_app(service: Service, *, only_loopback: bool = True) -> Any:
    """Build the application of a service.

    Args:
        service: what it serves; it is started and closed with the application.
        only_loopback: refuse requests that name another host than this machine, as a page of another site does that
            makes its own name lead here.
    """
    from fastapi import FastAPI

    @contextlib.asynccontextmanager
    async def live(_: Any) -> AsyncIterator[None]:
        """Run the service for as long as the application answers."""
        service.start()
        try:
            yield
        finally:
            await asyncio.to_thread(service.close)

    app = FastAPI(title="graft serve", docs_url=None, redoc_url=None, openapi_url=None, lifespan=live)
    for method, path, handler in ROUTES:
        app.add_route(path, _guard(service, path, handler, only_loopback), methods=[method])
    for status in (404, 405):
        app.add_exception_handler(status, _explain_status)
    return app


def _guard(service: Service, path: str, handler: Handler, only_loopback: bool) -> Callable[[Any], Awaitable[Any]]:
    """Return an endpoint that answers in time, or says in one form why not."""

    async def endpoint(request: Any) -> Any:
        """Answer a request within its time, or refuse it."""
        clock, seconds = asyncio.get_running_loop().time, service.limits.seconds
        start = clock()

        def count(status: int) -> None:
            """Count the request and its seconds, once it has ended with a status."""
            service.metrics.requests.labels(path, status).inc()
            service.metrics.seconds.labels(path).observe(clock() - start)

        try:
            if only_loopback and not _LOOPBACK.fullmatch(request.headers.get("host", "")):
                raise Refusal(421, "this server answers under the name of this machine alone")
            async with asyncio.timeout_at(start + seconds):
                answer = await handler(service, request)
            if isinstance(answer, EventStream):
                return answer.respond(path, seconds, start + seconds, count)
            response = _respond(answer)
        except TimeoutError:
            response = _refuse(refuse_late(seconds))
        except Hangup:
            response = _refuse(Refusal(499, "the client is gone"))
        except Exception as error:
            response = _refuse(note_failure(error, path))
        count(response.status_code)
        return response

    return endpoint


def _respond(value: Any) -> Any:
    from starlette.responses import JSONResponse, Response

    return value if isinstance(value, Response) else JSONResponse(value)


def _refuse(refusal: Refusal) -> Any:
    from starlette.responses import JSONResponse

    return JSONResponse(refusal.to_json(), refusal.status, refusal.headers)


async def _explain_status(request: Any, error: Any) -> Any:
    """Say in the same form that there is no such route."""
    fact = f"{request.method} {request.url.path[:200]}: there is no such route"
    return _refuse(Refusal(error.status_code, fact, MISSING))
