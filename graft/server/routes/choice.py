"""The skills of a request's texts: those that it names, or those that the router chooses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graft.server.refusal import Refusal
from graft.server.resident import AUTO, BASE, Names
from graft.server.service import Service


async def choose_skills(service: Service, request: Any, model: str | None, texts: Sequence[str]) -> list[Names]:
    """Return the skills of each text; the router's choice where the request says "auto", or nothing.

    The router chooses no skill that is about to be removed, so that a removal comes however many ask; where one leaves
    just then, the base is chosen, since the request named no skill that could be missing.

    Raises:
        Refusal: a skill is unknown, or there is no router.
    """
    resident, router = service.resident, service.resident.router
    if not is_routed(service, model):
        return [resident.find(BASE if model is None else model)] * len(texts)
    if router is None:
        raise Refusal(422, "this server has no router: name a skill, or base", code="no_router")
    chosen = await service.call(
        lambda: router.choose(list(texts), without=frozenset(resident.leaving)), request, n_texts=len(texts)
    )
    return [() if name is None or not resident.offers(name) else (name,) for name in chosen]


def is_routed(service: Service, model: str | None) -> bool:
    """Return whether the router chooses: where it is asked to, and where there is one and no skill is named."""
    return model == AUTO or (model is None and service.resident.router is not None)


def name_of(skills: Names) -> str:
    """Return the name by which a request could have asked for skills."""
    return "+".join(skills) or BASE


def name_of_all(chosen: Sequence[Names]) -> str:
    """Return the name of the skills of all texts, "auto" where they differ."""
    names = {name_of(skills) for skills in chosen}
    return names.pop() if len(names) == 1 else AUTO
