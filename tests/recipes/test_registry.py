"""A kind of recipe is one row: the command's help, the refusals, the run and the report know it by that alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from click.testing import CliRunner
from graft_cli.commands.run import command

from graft.errors import ConfigError
from graft.recipes.content import Used
from graft.recipes.experiment import Experiment, Summary
from graft.recipes.registry import KINDS, RecipeKind
from graft.recipes.run import load_experiment, run_recipe
from graft.recipes.seed_run import SeedContext
from graft.report.page.build_page import write_report
from graft.results.tables import TextTable
from graft.specs.reader import load_yaml
from graft.specs.recipe import Expectation
from graft.specs.reference import describe_blocks
from graft.tasks.task import Task
from tests.models import write_yaml

RECIPES = Path(__file__).parents[2] / "recipes"


@dataclass(frozen=True)
class ToySpec:
    """A recipe that counts.

    Attributes:
        step: of the count.
    """

    name: str
    base: str
    task: str
    step: int = 1
    seeds: tuple[int, ...] = (0, 1)
    expect: Mapping[str, Expectation] = field(default_factory=dict)
    kind: Literal["toy"] = "toy"


@dataclass(frozen=True)
class ToyExperiment(Experiment):
    """It counts."""

    recipe: ToySpec
    task: Task

    @classmethod
    def load(cls, path: Path, recipe: ToySpec) -> ToyExperiment:
        return cls(recipe, Task.load(path.parent / recipe.task))

    @property
    def used(self) -> Mapping[str, Sequence[Used]]:
        return {"task": [(self.task, None)]}

    @property
    def files(self) -> Sequence[str]:
        return [self.recipe.task]

    def list_budgets(self) -> Sequence[Any]:
        return []

    def run_seed(self, context: SeedContext) -> dict[str, int]:
        return {"seed": context.seed, "count": context.seed + self.recipe.step}

    def summarize(self, seeds: Sequence[Mapping[str, int]], out: Path) -> Summary:
        figures = {"toy": {"count": {"mean": sum(seed["count"] for seed in seeds), "half": None}}}
        return Summary(figures, [TextTable(["model", "count"], [["toy", "3"]])], figures)


TOY = RecipeKind(
    name="toy",
    help="a count of seeds",
    target="tests.recipes.test_registry:ToyExperiment",
    spec="tests.recipes.test_registry:ToySpec",
)


@pytest.fixture
def recipe(shelf: Path, tmp_path: Path) -> Path:
    content = {"kind": "toy", "name": "count", "base": str(shelf / "base"), "task": str(shelf / "toy" / "task.yaml")}
    content |= {"expect": {"toy.count": {"value": 4, "tolerance": 0}}, "step": 1}
    return write_yaml(tmp_path / "count.yaml", content)


def test_a_kind_is_one_row(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kind: 'toy' is not a kind of recipe; choose from single, multitask, forget"):
        load_experiment(recipe)
    assert "a count of seeds" not in CliRunner().invoke(command, ["--help"]).output
    with KINDS.extended(TOY):
        assert "a count of seeds" in CliRunner().invoke(command, ["--help"]).output
        result = run_recipe(recipe, tmp_path / "out")
        assert result.results["seeds"] == [{"seed": 0, "count": 1}, {"seed": 1, "count": 2}]
        assert result.missed == ("toy.count is 3.000, expected 4 ± 0",)
        assert json.loads((tmp_path / "out" / "results.json").read_text())["kind"] == "toy"
        page = write_report([tmp_path / "out"], tmp_path / "page.html").page.read_text()
        assert '<th scope="col">count</th>' in page
        other = write_yaml(recipe, {**load_yaml(recipe), "kind": "single"})
        with pytest.raises(ConfigError, match="'step' belongs to a recipe of kind toy, and this one says kind: single"):
            load_experiment(other)


def test_every_row_loads_and_its_spec_says_its_name() -> None:
    for name, kind in KINDS.items():
        assert issubclass(kind.load(), Experiment)
        assert {"name", "base", "seeds", "expect", "kind"} <= set(kind.list_keys())
        assert kind.load_spec().__dataclass_fields__["kind"].default == name


@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [
        (None, {}, r"r.yaml: the key 'kind' is missing; choose from single, multitask, forgetting"),
        ("suite", {}, r"r.yaml: kind: 'suite' is not a kind of recipe; choose from single, multitask, forgetting"),
        (["single"], {}, r"kind: \['single'\] is not a kind of recipe"),
        ("single", {"domains": [], "methods": {}}, r"'domains', 'methods' belongs to a recipe of kind forgetting"),
        ("forgetting", {"sequences": {}}, r"'sequences' belongs to a recipe of kind multitask"),
        ("single", {"domain": []}, r"unknown key 'domain'"),
    ],
)
def test_what_is_wrong_with_a_kind_is_one_line(kind: Any, more: dict[str, Any], said: str, tmp_path: Path) -> None:
    content = {"name": "r", "base": "x", **more} | ({"kind": kind} if kind else {})
    with pytest.raises(ConfigError, match=said) as refused:
        load_experiment(write_yaml(tmp_path / "r.yaml", content))
    assert "\n" not in str(refused.value)


def test_every_recipe_of_the_project_states_its_kind() -> None:
    kinds = {load_yaml(path)["kind"] for path in RECIPES.glob("*.yaml")}
    assert kinds == set(KINDS)


def test_the_keys_of_a_new_kind_are_in_the_reference() -> None:
    assert not [title for title in describe_blocks() if "toy" in title]
    with KINDS.extended(TOY):
        rows = {row.key: row for row in describe_blocks()["recipe of kind toy"]}
    assert (rows["step"].type, rows["step"].default, rows["step"].meaning) == ("whole number", "1", "of the count.")
