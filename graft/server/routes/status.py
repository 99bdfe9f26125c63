"""/health and /metrics."""

from __future__ import annotations

from typing import Any

from graft.server.refusal import SERVER, Refusal
from graft.server.service import Service


async def show_health(service: Service, request: Any) -> dict[str, Any]:
    """Tell whether requests are answered.

    Raises:
        Refusal: the model's thread is gone, or about to stop (503).
    """
    if not service.thread.is_alive or service.thread.queue.is_closed:
        raise Refusal(503, "the model's thread does not run", SERVER)
    return {"status": "ok", "base": service.resident.base, "skills": len(service.resident.skills)}


async def show_metrics(service: Service, request: Any) -> Any:
    """Write the metrics as Prometheus reads them."""
    from starlette.responses import Response

    body, content_type = service.metrics.write()
    return Response(body, media_type=content_type)
