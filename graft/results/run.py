"""Results: everything that results.json holds, out to JSON and in again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graft.errors import DataError
from graft.results.fields import from_node, to_json
from graft.results.json_node import Node
from graft.results.layout import RESULTS
from graft.results.models import REFIT, Model, guess_model
from graft.results.planted import PlantedSeed
from graft.results.seeds import ExtractionSeed, ForgettingSeed, MultitaskSeed, SingleSeed
from graft.results.tables import Block, read_block

SCHEMA = 1
# kind of recipe -> results of one of its seeds; seeds of any other kind are taken as they stand
SEEDS: dict[str, type] = {
    "single": SingleSeed,
    "multitask": MultitaskSeed,
    "forgetting": ForgettingSeed,
    "extraction": ExtractionSeed,
    "planted": PlantedSeed,
}


@dataclass(frozen=True)
class Results:
    """A finished run.

    Attributes:
        kind: of the recipe.
        recipe: the whole recipe, as plain values.
        summary: means and intervals over seeds, as JSON; its levels are the kind's own.
        seeds: the results of each (`graft.results.seeds`), in the recipe's order.
        tables: paragraphs and tables, in their order.
        models: of a recipe of one task: model -> what it is.
        missed: expectations that were not met, as sentences.
        more: further results of the kind over all seeds, as JSON.
    """

    kind: str
    recipe: Mapping[str, Any]
    summary: Mapping[str, Any]
    seeds: tuple[Any, ...]
    tables: Sequence[Block] = ()
    models: Mapping[str, Model] = field(default_factory=dict)
    missed: tuple[str, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def main_method(self) -> str | None:
        """The method of the patch that a run of one task is about, the refit where there is one; None of others."""
        block = self.recipe.get("localize")
        method = block.get("method") if isinstance(block, Mapping) else None
        if self.kind != "single" or not isinstance(method, str):
            return None
        return method if self.recipe.get("refit") is None else REFIT

    def to_json(self) -> dict[str, Any]:
        """Return the content of results.json."""
        head = {"schema": SCHEMA, "kind": self.kind, "recipe": self.recipe, "summary": self.summary, **self.more}
        models = {"models": self.models} if self.models else {}
        tail = {"seeds": self.seeds, "missed": self.missed, "tables": self.tables}
        content: dict[str, Any] = to_json({**head, **models, **tail})
        return content


def load_results(run: Path) -> Results:
    """Read the results in a folder that `graft run` wrote.

    Files from before the schema had a number are read too: they say neither kind nor models nor tables.

    Raises:
        DataError: it is no such folder, or its results are broken or of a newer schema; the line names file and place.
    """
    if not run.is_dir():
        raise DataError(f"{run}: no such folder")
    if not (run / RESULTS).is_file():
        raise DataError(f"{run}: holds no {RESULTS}; `graft run` writes it when a run is finished")
    return read_results(Node.load(run / RESULTS))


def read_results(root: Node) -> Results:
    """Read the content of a results.json.

    Raises:
        DataError: something is missing, of the wrong type, or of a newer schema.
    """
    schema, recipe, seeds = root.get("schema"), root.need("recipe"), root.need("seeds")
    if schema is not None and schema.whole() != SCHEMA:
        schema.refuse(f"{SCHEMA}, the schema that this version reads")
    kind = stated.text() if (stated := root.get("kind")) else _guess_kind(recipe)
    recipe.need("name")
    typed_seeds = tuple(from_node(SEEDS.get(kind, Any), node) for node in seeds.elements())
    known = {"schema", "kind", "recipe", "summary", "seeds", "tables", "models", "missed"}
    summary, tables, missed = (root.get(key) for key in ("summary", "tables", "missed"))
    return Results(
        kind=kind,
        recipe=recipe.value,
        summary=summary.value if summary else {},
        seeds=typed_seeds,
        tables=tuple(map(read_block, tables.elements())) if tables else (),
        models=_read_models(root.get("models"), typed_seeds) if kind == "single" else {},
        missed=tuple(node.text() for node in missed.elements()) if missed else (),
        more={key: node.value for key, node in root.items() if key not in known},
    )


def _guess_kind(recipe: Node) -> str:
    """Tell the kind of a recipe that does not say it by the tasks that it names."""
    names = {"tasks": "multitask", "domains": "forgetting"}
    return next((kind for key, kind in names.items() if recipe.get(key) is not None), "single")


def _read_models(node: Node | None, seeds: Sequence[SingleSeed]) -> dict[str, Model]:
    stated = {name: from_node(Model, item) for name, item in node.items()} if node else {}
    names = dict.fromkeys(name for seed in seeds for name in seed.models)
    return {name: stated.get(name) or guess_model(name) for name in names}
