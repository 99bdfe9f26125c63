"""The kinds of recipes: each row names the keys that such a recipe may hold and the experiment that runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graft.errors import ConfigError
from graft.registry import Entry, Registry, load_target


@dataclass(frozen=True, kw_only=True)
class RecipeKind(Entry):
    """Kind of recipe; `target` is its `graft.recipes.experiment.Experiment`.

    Attributes:
        spec: "package.module:Class" of the dataclass whose fields are the recipe's keys.
    """

    spec: str

    def load_spec(self) -> Any:
        """Import and return the dataclass of its keys."""
        return load_target(self.spec)

    def list_keys(self) -> tuple[str, ...]:
        """Return the keys that such a recipe may hold."""
        return tuple(self.load_spec().__dataclass_fields__)


KINDS = Registry(
    "kind of recipe",
    [
        RecipeKind(
            name="single",
            help="one task is tuned, localized and grafted, and held against simpler explanations",
            target="graft.recipes.single.experiment:SingleExperiment",
            spec="graft.specs.single:SingleSpec",
            source="https://arxiv.org/abs/2302.06600",
        ),
        RecipeKind(
            name="multitask",
            help="ways to have several tasks in one model: at once, in turn, fused, as grafts side by side",
            target="graft.recipes.multitask.experiment:MultitaskExperiment",
            spec="graft.specs.multitask:MultitaskSpec",
        ),
        RecipeKind(
            name="forgetting",
            help="ways to learn new domains without losing what the model can do",
            target="graft.recipes.forgetting.experiment:ForgettingExperiment",
            spec="graft.specs.forgetting:ForgettingSpec",
        ),
        RecipeKind(
            name="extraction",
            help="ways to make one tuned checkpoint small: what each keeps of it against its bytes",
            target="graft.recipes.extraction.experiment:ExtractionExperiment",
            spec="graft.specs.extraction:ExtractionSpec",
        ),
        RecipeKind(
            name="planted",
            help="a skill planted in a known mask under a drift of all weights: which method finds it",
            target="graft.recipes.planted.experiment:PlantedExperiment",
            spec="graft.specs.planted:PlantedSpec",
        ),
    ],
)


def find_kind(content: Mapping[str, Any], where: str) -> RecipeKind:
    """Return the row of the kind that a recipe states.

    Args:
        content: of the recipe's file.
        where: its name, for errors.

    Raises:
        ConfigError: it states none, or an unknown one, or holds keys of another kind.
    """
    stated = content.get("kind")
    if stated is None:
        raise ConfigError(f"{where}: the key 'kind' is missing; choose from {', '.join(KINDS)}")
    if not isinstance(stated, str) or stated not in KINDS:
        raise ConfigError(f"{where}: kind: {stated!r} is not a kind of recipe; choose from {', '.join(KINDS)}")
    kind = KINDS[stated]
    own = kind.list_keys()
    for other in KINDS.values():
        foreign = [key for key in content if key not in own and key in other.list_keys()]
        if foreign:
            raise ConfigError(
                f"{where}: {', '.join(map(repr, foreign))} belongs to a recipe of kind {other.name}, "
                f"and this one says kind: {stated}"
            )
    return kind
