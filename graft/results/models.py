"""The models that a recipe of one task measures: what each is called, and what it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Role = Literal["base", "tuned", "graft", "without", "control"]
# key of a control in a recipe -> name of its model
CONTROL_NAMES = {
    "temperature": "tuned, temperature-scaled",
    "interpolation": "interpolation",
    "early_stopping": "early-stopped",
    "larger_random": "random, larger",
}

TEACHER = "teacher"  # the tuned model that a refit is fitted to, where it is another than "tuned"
REFIT = "refit"


@dataclass(frozen=True)
class Model:
    """Role of a model in a run.

    Attributes:
        role: "base"; "tuned"; "graft", the base with a patch; "without", the tuned model with the patch's region put
            back to the base; "control", a simpler model of the same accuracy.
        method: by which the patch was localized, or the control's key in the recipe; None of base and tuned.
    """

    role: Role
    method: str | None = None


def graft_name(method: str) -> str:
    """Return the name of the base with a method's patch."""
    return f"graft ({method})"


def without_name(method: str) -> str:
    """Return the name of the tuned model whose region by a method is put back to the base."""
    return f"tuned without ({method})"


def name_models(methods: Iterable[str]) -> dict[str, Model]:
    """Return every model that a recipe with these methods can measure, by name."""
    methods = list(methods)
    return {
        **{role: Model(role) for role in ("base", "tuned")},
        TEACHER: Model("tuned"),
        graft_name(REFIT): Model("graft", REFIT),
        **{graft_name(method): Model("graft", method) for method in methods},
        **{name: Model("control", key) for key, name in CONTROL_NAMES.items()},
        **{without_name(method): Model("without", method) for method in (REFIT, *methods)},
    }


def guess_model(name: str) -> Model:
    """Return what a model is by its name alone, for results that were written before they said so."""
    for role, prefix in (("graft", "graft ("), ("without", "tuned without (")):
        if name.startswith(prefix) and name.endswith(")"):
            return Model(role, name.removeprefix(prefix).removesuffix(")"))  # type: ignore[arg-type]
    return name_models(()).get(name, Model("control"))
