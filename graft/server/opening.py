"""Opening: a base, its skills and their tasks, as a service that is ready to run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from graft.arguments import checked
from graft.errors import ConfigError
from graft.evaluate.evaluation import predict_examples
from graft.evaluate.temperature import fit_temperature
from graft.mixture.routing.learning import learn_task_reference
from graft.mixture.routing.reference_file import load_reference
from graft.mixture.routing.router import Router
from graft.mixture.routing.text_embedder import TextEmbedder
from graft.patch.overlap_rules import OverlapRule
from graft.server.limits import Limits
from graft.server.recorded_task import check_task
from graft.server.refusal import Refusal
from graft.server.resident import Resident, open_resident
from graft.server.service import Service
from graft.server.skill import Skill, open_skill
from graft.sources.opening import Model
from graft.specs.runtime import DEFAULT, Runtime
from graft.tasks.task import Task


@checked
def open_service(
    base: Model,
    skills: Mapping[str, str | Path] | None = None,
    *,
    tasks: Mapping[str, Path] | None = None,
    calibrate: bool = False,
    router: bool = False,
    references: Mapping[str, Path] | None = None,
    token: str | None = None,
    on_overlap: OverlapRule = "error",
    exact: bool = False,
    runtime: Runtime = DEFAULT,
    limits: Limits | None = None,
) -> Service:
    """Load a base with skills; nothing is served yet.

    Args:
        base: as `open_model` takes it.
        skills: name -> patch, a local file or folder, or a Hub id.
        tasks: skill -> the TASK file whose labels it reads; what its patch records where absent.
        calibrate: fit a temperature for each skill with a TASK file, on that file's validation examples.
        router: choose a skill, or none, for requests that name none, by what the skills' own texts look like.
        references: skill -> file of what its texts look like (`graft.save_reference`); learned from its TASK file
            where absent, and without either nothing is sent to it.
        token: by which skills can be added and removed while it runs; None for not at all.
        on_overlap, exact: as in `serve_patches`.
        runtime: device and dtype.
        limits: of requests.

    Raises:
        ConfigError: a task or reference is for no skill, no labels of a text can be read by a task, a skill has the
            base's name or is one too many, or a router has nothing to go by.
        GraftError: a patch or the base cannot be loaded, or they do not fit; the line says which and why.
    """
    references = references or {}
    opened, loaded = open_skills(skills or {}, tasks or {}, references, router=router)
    try:
        resident = open_resident(base, opened, on_overlap=on_overlap, exact=exact, runtime=runtime, limits=limits)
        if calibrate:
            for name, task in loaded.items():
                _calibrate(resident, name, task)
    except Refusal as refusal:  # what a request would be told, of what was asked for here
        raise ConfigError(str(refusal)) from refusal
    if router:
        resident.router = _make_router(resident, loaded, references)
    return Service(resident, token=token)


def open_skills(
    skills: Mapping[str, str | Path], tasks: Mapping[str, Path], references: Mapping[str, Path], *, router: bool
) -> tuple[list[Skill], dict[str, Task]]:
    """Load patches and TASK files, arguments as of `open_service`; return the skills, and the tasks of TASK files.

    Raises:
        ConfigError, GraftError: as `open_service`, as far as the base is not asked.
    """
    if other := [name for name in (*tasks, *references) if name not in skills]:
        raise ConfigError(f"{other[0]!r} is no skill: name the patch too")
    if (router and not (tasks or references)) or (references and not router):
        raise ConfigError("a router goes with references, or tasks to learn them from")
    loaded = {name: Task.load(path) for name, path in tasks.items()}
    return [_with_task(open_skill(name, str(path)), loaded.get(name)) for name, path in skills.items()], loaded


def _make_router(resident: Resident, tasks: Mapping[str, Task], references: Mapping[str, Path]) -> Router:
    router = Router(TextEmbedder(resident.mixed, resident.head.tokenizer))
    for name in resident.skills:
        if name in references:
            router.add(name, load_reference(references[name]))
        elif name in tasks:
            router.add(name, learn_task_reference(router.embed, tasks[name]))
    return router


def _with_task(skill: Skill, task: Task | None) -> Skill:
    return skill if task is None else dataclasses.replace(skill, task=check_task(task.spec), why_no_task="")


def _calibrate(resident: Resident, name: str, task: Task) -> None:
    with resident.mixed.skills([name]):
        validation = predict_examples(resident.head_of(name), task.validation_examples(), 64, f"{name}: validation")
    temperature = fit_temperature(validation)
    resident.skills[name] = dataclasses.replace(resident.skills[name], temperature=temperature)
