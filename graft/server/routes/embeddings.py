"""/v1/models and /v1/embeddings, in OpenAI's form."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import torch

from graft.server.batching import Row
from graft.server.forms import EmbeddingForm
from graft.server.jobs import EmbedJob
from graft.server.refusal import Refusal, refuse_tokens
from graft.server.routes.body import read_body
from graft.server.routes.choice import choose_skills, name_of, name_of_all
from graft.server.service import Service
from graft.tasks.batches import run_tokenizer


async def list_models(service: Service, request: Any) -> dict[str, Any]:
    """List the base and the skills as models."""
    names = service.resident.names
    data = [{"id": name, "object": "model", "created": 0, "owned_by": service.resident.base} for name in names]
    return {"object": "list", "data": data}


async def show_model(service: Service, request: Any) -> dict[str, Any]:
    """Show one of them, or a composition."""
    name = request.path_params["name"]
    service.resident.find(name)
    return {"id": name, "object": "model", "created": 0, "owned_by": service.resident.base}


async def embed(service: Service, request: Any) -> dict[str, Any]:
    """Embed texts: mean-pooled over tokens and normalized, as the similarity head does."""
    form = await read_body(EmbeddingForm, request, service)
    check_count(len(form.texts), service)
    encoded = await service.read(_encode, form.texts, service)
    chosen = await choose_skills(service, request, form.model, form.texts)
    rows = [Row(ids, skills) for ids, skills in zip(encoded, chosen, strict=True)]
    vectors = await service.run(EmbedJob(rows=rows), request)
    n_tokens = sum(len(row.ids) for row in rows)
    data = [
        {"object": "embedding", "index": i, "embedding": _write(vector, form.encoding_format), "skill": name_of(skills)}
        for i, (vector, skills) in enumerate(zip(vectors, chosen, strict=True))
    ]
    usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
    return {"object": "list", "data": data, "model": name_of_all(chosen), "usage": usage}


def check_count(n_texts: int, service: Service) -> None:
    """Refuse a request without texts, or with too many of them.

    Raises:
        Refusal: saying how many there may be.
    """
    if not 1 <= n_texts <= service.limits.texts:
        raise Refusal(400, f"a request may have 1 to {service.limits.texts:,} texts, not {n_texts:,}", code="texts")


def check_tokens(texts: Sequence[Sequence[int]], longest: int, service: Service) -> None:
    """Refuse texts that the model cannot read whole, or that are too many tokens together.

    Raises:
        Refusal: saying how many there may be.
    """
    for number, ids in enumerate(texts):
        if not ids:
            raise Refusal(400, f"text {number} has no token")
        if len(ids) > longest:
            raise Refusal(
                400, f"text {number} has {len(ids):,} tokens, and the model reads {longest:,}", code="context"
            )
    if (n_tokens := sum(map(len, texts))) > service.limits.tokens:
        raise refuse_tokens(n_tokens, service.limits.tokens)


def _encode(tokenizer: Any, texts: Sequence[str], service: Service) -> list[list[int]]:
    encoded = run_tokenizer(tokenizer, list(texts), verbose=False)["input_ids"]
    check_tokens(encoded, service.resident.embedding.limit, service)
    return [list(ids) for ids in encoded]


def _write(vector: torch.Tensor, encoding: str) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode()
    values: list[float] = vector.tolist()
    return values
