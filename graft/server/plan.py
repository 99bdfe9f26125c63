"""The plan of a server: what it would load and offer, without a weight of the base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.arguments import checked
from graft.memory.plan import MemoryPlan
from graft.memory.serve import plan_serving
from graft.patch.compatibility import check_compatible
from graft.patch.merge import StoredTarget
from graft.server.app import ROUTES
from graft.server.limits import Limits
from graft.server.opening import open_skills
from graft.server.routes.classify import label_texts
from graft.server.routes.completions import answer_chat, complete
from graft.server.routes.skills import add_skill, remove_skill
from graft.server.skill import Skill
from graft.sources.opening import Model, open_model
from graft.specs.reader import to_plain
from graft.specs.runtime import DEFAULT, Runtime
from graft.tasks.language_model import family_of
from graft.train.master_weights import loaded_dtype


@dataclass(frozen=True)
class ServingPlan:
    """What a server will load and offer.

    Attributes:
        base: the base's name.
        n_parameters: of the base.
        dtype: in which it will be loaded.
        skills: with their tasks, as far as these are known before the model is.
        routes: those that will have something to answer.
        limits: of requests.
        memory: what it will take.
    """

    base: str
    n_parameters: int
    dtype: str
    skills: tuple[Skill, ...]
    routes: tuple[str, ...]
    limits: Limits
    memory: MemoryPlan

    def to_json(self) -> dict[str, Any]:
        """Return plain values: those of the memory's plan, and beside them what is loaded and offered."""
        return {
            "base": self.base,
            "n_parameters": self.n_parameters,
            "dtype": self.dtype,
            "skills": list(map(_describe, self.skills)),
            "routes": list(self.routes),
            "limits": to_plain(self.limits),
            **self.memory.to_json(),
        }

    def lines(self) -> list[str]:
        """Return the plan as lines for a person, its memory last."""
        rows = [("base", f"{self.base}, {self.n_parameters:,} parameters in {self.dtype}")]
        rows += [(f"skill {own['name']}", _line(own)) for own in map(_describe, self.skills)]
        rows += [("routes", ", ".join(self.routes))]
        rows += [("limits", ", ".join(f"{key} {value:,}" for key, value in to_plain(self.limits).items()))]
        width = max(len(name) for name, _ in rows)
        return [*(f"{name:<{width}}  {value}" for name, value in rows), "", *self.memory.lines()]


@checked
def plan_service(
    base: Model,
    skills: Mapping[str, str | Path] | None = None,
    *,
    tasks: Mapping[str, Path] | None = None,
    router: bool = False,
    references: Mapping[str, Path] | None = None,
    token: str | None = None,
    runtime: Runtime = DEFAULT,
    limits: Limits | None = None,
) -> ServingPlan:
    """Plan what `open_service` with the same arguments will load; patches are read, of the base headers alone.

    Raises:
        ConfigError, GraftError: the service would be refused, as far as that can be told without the base's values.
    """
    opened, limits = open_model(base), limits or Limits()
    checkpoint, name = opened.checkpoint, opened.located.id or opened.located.name
    planned, _ = open_skills(skills or {}, tasks or {}, references or {}, router=router)
    target = StoredTarget(checkpoint)
    for skill in planned:
        check_compatible(skill.patch, target, check_base=False).require(name)
    writes = family_of(opened.located.path) == "causal"
    memory = plan_serving(
        checkpoint,
        [skill.patch for skill in planned],
        most_rows=limits.batch_rows,
        most_tokens=limits.batch_tokens,
        writes=writes,
        runtime=runtime,
    )
    has_labels = any(skill.task is not None for skill in planned)
    dtype = str(loaded_dtype(checkpoint, runtime.dtype)).removeprefix("torch.")
    routes = _open_routes(writes=writes, changes=token is not None, labels=has_labels or token is not None)
    return ServingPlan(name, checkpoint.n_parameters, dtype, tuple(planned), routes, limits, memory)


def _open_routes(*, writes: bool, changes: bool, labels: bool) -> tuple[str, ...]:
    """Return the routes that answer: of a model that writes, of skills that have labels or may come."""
    wanted: dict[Any, bool] = {
        complete: writes,
        answer_chat: writes,
        add_skill: changes,
        remove_skill: changes,
        label_texts: labels,
    }
    return tuple(f"{method} {path}" for method, path, handler in ROUTES if wanted.get(handler, True))


def _describe(skill: Skill) -> dict[str, Any]:
    head: dict[str, Any] = {"head": None, "why_no_head": skill.why_no_task}
    if skill.task is not None:
        head = {"head": skill.task.head.kind, "labels": list(skill.task.labels), "max_length": skill.task.max_length}
    return {"name": skill.name, "source": skill.source, "k": len(skill.patch), "bytes": skill.n_bytes, **head}


def _line(skill: Mapping[str, Any]) -> str:
    size = f"{skill['k']:,} entries, {skill['bytes']:,} bytes"
    if skill["head"] is None:
        return f"{size}; no labels: {skill['why_no_head']}"
    return f"{size}; head {skill['head']}, {len(skill['labels'])} labels, texts of {skill['max_length']:,} tokens"
