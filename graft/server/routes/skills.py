"""/skills: what there is, with card and place; behind the token, skills added from the Hub and removed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from graft.errors import HubError, PatchError
from graft.files.location import fetch_file
from graft.patch.format.declaration import FILE_NAME
from graft.server.forms import SkillForm
from graft.server.limits import Limits
from graft.server.refusal import Refusal, refuse_unknown_model
from graft.server.routes.body import read_body
from graft.server.service import Service
from graft.server.skill import Skill, read_skill


async def list_skills(service: Service, request: Any) -> dict[str, Any]:
    """List the skills with their cards."""
    resident = service.resident
    skills = await asyncio.to_thread(_describe, list(resident.skills.values()))
    return {
        "base": resident.base,
        "generates": resident.why_silent is None,
        "chats": bool(resident.head.tokenizer.chat_template),
        "routes": resident.router is not None,
        "skills": skills,
    }


async def add_skill(service: Service, request: Any) -> dict[str, Any]:
    """Fetch a patch from the Hub, check it as a stranger's file, and make it a skill."""
    service.authorize(request.headers.get("authorization"))
    form = await read_body(SkillForm, request, service)
    if form.name in service.resident.skills:
        raise Refusal(409, f"there is a skill {form.name!r} already", code="exists")
    skill = await asyncio.to_thread(_fetch, form, service.limits)
    resident = service.resident
    added = await service.call(lambda: resident.add(skill), request, undo=lambda: resident.remove(form.name))
    return (await asyncio.to_thread(_describe, [added]))[0]


async def remove_skill(service: Service, request: Any) -> dict[str, Any]:
    """Remove a skill; generations that carry it are finished first."""
    service.authorize(request.headers.get("authorization"))
    name = request.path_params["name"]
    if name not in service.resident.skills or name in service.resident.leaving:
        raise refuse_unknown_model(name, service.resident.names)
    service.resident.leaving.add(name)
    try:
        await service.call(lambda: service.resident.remove(name), request, leaves=name)
    finally:
        service.resident.leaving.discard(name)
    return {"name": name, "removed": True}


def _describe(skills: Sequence[Skill]) -> list[dict[str, Any]]:
    return [skill.description for skill in skills]


def _fetch(form: SkillForm, limits: Limits) -> Skill:
    """Fetch one file of a Hub repository: never a local path, whatever lies here under that name."""
    reference = form.repo if form.revision is None else f"{form.repo}@{form.revision}"
    _require_small(form, limits)
    located = fetch_file(reference, FILE_NAME)
    source = form.repo if located.revision is None else f"{form.repo}@{located.revision}"
    try:
        return read_skill(form.name, located.path, source)
    except PatchError as error:  # whose line names the file in the cache of this machine
        raise Refusal(422, str(error).replace(str(located.path), form.repo), code="patch") from error


def _require_small(form: SkillForm, limits: Limits) -> None:
    """Refuse a file that is larger than may be fetched, before it is.

    Raises:
        HubError: the Hub does not tell, or has none.
        Refusal: it is too large.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    from graft.files.hub_failures import explain_failure, failures
    from graft.files.hub_models import require_hub_id

    try:
        require_hub_id(form.repo)
    except ValueError as error:
        raise Refusal(400, f"repo: {str(error)[:80]!r} is not a Hub id: write NAME or ORG/NAME") from error
    try:
        infos = HfApi().get_paths_info(form.repo, [FILE_NAME], revision=form.revision)
    except failures() as error:
        raise HubError(explain_failure(error, form.repo, form.revision or "")) from error
    sizes = [item.size for item in infos if isinstance(item, RepoFile)]
    if not sizes:
        raise HubError(f"{form.repo} holds no {FILE_NAME}")
    if sizes[0] > limits.patch_bytes:
        raise Refusal(413, f"{FILE_NAME} of {form.repo} has {sizes[0]:,} bytes, more than {limits.patch_bytes:,}")
