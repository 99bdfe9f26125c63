"""MathNeuro: what matters on the skill's texts and not on general ones, at an exact budget."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import BudgetError, CheckpointError, ConfigError
from graft.localize.localization import localize_skill
from graft.memory.localize import plan_localization
from graft.recipes.run import run_recipe
from graft.refit.support import localization_of
from graft.scores.mathneuro import GRID, count_steps, place_by_size
from graft.specs.localize import LocalizeSpec
from graft.specs.refit import RefitSpec
from graft.tasks.head import open_head
from graft.tasks.task import Task
from tests.cli.conftest import cli as cli
from tests.models import FILMS, MEALS, SMALL, TEXTS, copy_with, toy_content, toy_rows, write_rows, write_yaml

UNITS, READERS = "encoder.layer.0.intermediate.dense", "encoder.layer.0.output.dense"
FIRES, CONSTANT = 5, 9  # a unit that fires on meals alone, and one that always does
SCOPE = r"layer\.0\.output\.dense\.weight"


def task_about(things: list[str]) -> Task:
    rows = [{"text": f"the {thing} was {small}", "label": i % 2} for i, thing in enumerate(things) for small in SMALL]
    head = {"kind": "similarity", "texts": list(TEXTS)}
    return Task.of(train=rows, validation=rows, test=rows, labels=["sad", "glad"], head=head, name=things[0])


SKILL, GENERAL = task_about(MEALS), task_about(FILMS)


def inputs_of(model: Path, module: str, task: Task) -> torch.Tensor:
    """What a module reads of each text, (texts, 6 tokens, width): [CLS] the THING was SMALL [SEP]."""
    head, states = open_head(model, task.spec), []
    hook = head.model.get_submodule(module).register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
    with head.evaluating():
        head.model(**head.tokenize([example.texts for example in task.train_examples()]))
    hook.remove()
    return states[0]


@pytest.fixture(scope="module")
def planted(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base with both units and, as large, a column that reads each; every other weight drifts."""
    meals, films = (inputs_of(shelf / "base", UNITS, task).flatten(0, 1) for task in (SKILL, GENERAL))
    inputs, targets = torch.cat([meals, films]), torch.full((len(meals) + len(films),), -6.0)
    targets[: len(meals)].view(-1, 6)[:, 2] = 6.0
    fitted = torch.linalg.lstsq(torch.cat([inputs, torch.ones(len(inputs), 1)], 1).double(), targets.double()[:, None])
    direction, bias = fitted.solution[:-1, 0].float(), float(fitted.solution[-1])

    def plant(name: str, tensor: torch.Tensor) -> None:
        tensor += 1e-4 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(len(name)))
        if name.startswith(UNITS):
            tensor[FIRES], tensor[CONSTANT] = (direction, 0.0) if tensor.ndim == 2 else (bias, 6.0)
        if name == f"{READERS}.weight":
            tensor[:, [FIRES, CONSTANT]] = 0.03  # as others: of a huge weight a whisper would count

    return copy_with(shelf / "base", tmp_path_factory.mktemp("planted") / "tuned", plant)


def localize(shelf: Path, planted: Path, method: str, general: Task | None, **changes: Any) -> dict[int, int]:
    """Column of the readers -> number of its entries that are chosen."""
    config = LocalizeSpec(method, **{"budget": 32, "scope": SCOPE, **changes})
    mask = localize_skill(shelf / "base", planted, SKILL, config, general=general).mask
    assert len(mask) == config.budget
    found = np.unique(mask[f"{READERS}.weight"] % 64, return_counts=True)
    return dict(zip(*(part.tolist() for part in found), strict=True))


def test_a_module_that_fires_on_the_skills_texts_alone_is_found(planted: Path, shelf: Path) -> None:
    on_skill, on_general = (inputs_of(planted, READERS, task) for task in (SKILL, GENERAL))
    assert float(on_skill[:, 2, FIRES].min()) > 2  # the control: it fires there, and there alone
    assert float(on_general[..., FIRES].max()) < 0.5
    assert float(on_general[..., CONSTANT].min()) > 5
    without = localize(shelf, planted, "wanda", None)
    assert without[CONSTANT] > without[FIRES]  # the louder unit, which has no part in the skill
    assert localize(shelf, planted, "mathneuro", GENERAL) == {FIRES: 32}
    assert localize(shelf, planted, "mathneuro", GENERAL, batch_size=5) == {FIRES: 32}
    both = localize(shelf, planted, "mathneuro", GENERAL, budget=40)
    assert both[FIRES] == 32
    assert CONSTANT not in both
    assert localize(shelf, planted, "mathneuro", GENERAL, structure="columns") == {FIRES: 32}


def test_the_skills_own_texts_set_nothing_apart(planted: Path, shelf: Path) -> None:
    with pytest.raises(BudgetError, match=r"^a budget of 32 entries, but at most 0 changed ones are in the top of"):
        localize(shelf, planted, "mathneuro", SKILL)
    with pytest.raises(BudgetError, match=r"^a budget of 2,048 entries, but at most \d+ changed ones"):
        localize(shelf, planted, "mathneuro", GENERAL, budget=2048)


def test_lines_are_filled_with_what_is_the_skills_alone(planted: Path, shelf: Path) -> None:
    assert localize(shelf, planted, "mathneuro", GENERAL, max_rank=1) == {FIRES: 32}
    with pytest.raises(
        BudgetError, match=r"40 entries, but of the \d+ that have a score those in 1 .*: raise max_rank"
    ):
        localize(shelf, planted, "mathneuro", GENERAL, budget=40, max_rank=1)
    both = localize(shelf, planted, "mathneuro", GENERAL, budget=40, max_rank=9)
    assert both == localize(shelf, planted, "mathneuro", GENERAL, budget=40)  # nothing to fill up with


def test_general_texts_are_asked_for_and_refused_by_who_reads_none(planted: Path, shelf: Path) -> None:
    with pytest.raises(ConfigError, match=r"^method 'mathneuro' needs general texts beside the task's"):
        localize(shelf, planted, "mathneuro", None)
    with pytest.raises(ConfigError, match=r"^method 'wanda' reads no general texts \(--general\): they are for "):
        localize(shelf, planted, "wanda", GENERAL)
    with pytest.raises(ConfigError, match=r"^support 'mathneuro' needs general texts, which a refit does not take"):
        localization_of(RefitSpec(support="mathneuro"), 5)


def test_vectors_are_none_of_its_business(planted: Path, shelf: Path) -> None:
    config = LocalizeSpec("mathneuro", budget=200, allocation="per-tensor", scope="layers")
    patch = localize_skill(shelf / "base", planted, SKILL, config, general=GENERAL)
    assert len(patch) == 200
    assert all(len(patch.mask.specs[name].shape) == 2 for name in patch.mask)
    assert patch.provenance.method["general"] == FILMS[0]
    with pytest.raises(ConfigError, match="holds no matrix"):
        localize(shelf, planted, "mathneuro", GENERAL, scope="LayerNorm")


def test_its_plan_counts_the_ranks_of_the_largest_tensor(shelf: Path) -> None:
    plans = [plan_localization(shelf / "base", SKILL, LocalizeSpec(name, budget=9)) for name in ("wanda", "mathneuro")]
    own, other = ({part.what: part.bytes for part in plan.parts}["scores of the largest tensor"] for plan in plans)
    assert None not in (own, other)
    assert int(other or 0) - int(own or 0) == (64 - 16) * 64 * 32


def by_hand(task: list[int], general: list[int], changed: list[bool], share: int) -> int:
    """Number of changed entries in the top share / n of the one and not of the other, ties by index."""
    tops = [sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))[:share] for sizes in (task, general)]
    nonzero = [{i for i in top if sizes[i] > 0} for top, sizes in zip(tops, (task, general), strict=True)]
    return sum(changed[i] for i in nonzero[0] - nonzero[1])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(*[st.integers(0, 6)] * 2, st.booleans()), min_size=1, max_size=24))
def test_each_share_holds_what_is_in_one_top_and_not_in_the_other(entries: list[tuple[int, int, bool]]) -> None:
    task, general, changed = (list(column) for column in zip(*entries, strict=True))
    places = [place_by_size(torch.tensor(numbers).float()) for numbers in (task, general)]
    sizes = count_steps(places[0], places[1], torch.tensor(changed)).cumsum()
    n = len(entries)
    for share in range(1, n + 1):
        at = -(-share * GRID // n)  # the first step of the grid that holds so many of n
        assert sizes[at] == by_hand(task, general, changed, share)


def test_what_is_not_finite_is_refused() -> None:
    assert place_by_size(torch.tensor([2.0, 0.0, 5.0])).tolist() == [2 * GRID // 3, GRID, GRID // 3]
    with pytest.raises(CheckpointError, match="not finite"):
        place_by_size(torch.tensor([1.0, torch.nan]))


def test_the_command_takes_general_texts(shelf: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    task = shelf / "toy" / "task.yaml"
    asked = ["localize", shelf / "base", shelf / "tuned", "--task", task, "--method", "mathneuro", "--budget", 30]
    general = write_yaml(tmp_path / "general.yaml", toy_content(name="meals", data=write_meals(tmp_path), ood={}))
    for more in (["-o", tmp_path / "none"], ["--plan"]):
        refused = cli(*asked, *more)
        assert refused.code == 1
        assert "error: method 'mathneuro' needs general texts beside the task's" in refused.err
    idle = cli(*asked[:5], "--method", "random", "--general", general, "-o", tmp_path / "none")
    assert "method 'random' reads no general texts (--general)" in idle.err
    assert "--refit does not go with --general" in cli(*asked, "--general", general, "--refit", "--plan").err
    made = json.loads(cli(*asked, "--general", general, "-o", tmp_path / "patch", "--no-measure", "--json").out)
    assert made["k"] == 30
    assert made["method"]["general"] == "meals"
    over = cli(*asked, "--general", general, "-o", general, "--force")
    assert over.code == 1
    assert general.read_text().startswith("name: meals")


def write_meals(folder: Path) -> dict[str, str]:
    write_rows(folder / "meals.jsonl", toy_rows(160, 3, MEALS))
    return dict.fromkeys(("train", "validation", "test"), "meals.jsonl")


def test_a_recipe_that_has_no_general_texts_refuses_before_it_trains(shelf: Path, tmp_path: Path) -> None:
    content = {"kind": "single", "name": "none", "base": str(shelf / "base"), "task": str(shelf / "toy" / "task.yaml")}
    recipe = write_yaml(tmp_path / "recipe.yaml", {**content, "controls": ["mathneuro"]})
    with pytest.raises(
        ConfigError, match=r"controls: method 'mathneuro' needs general texts, which only recipes of kind"
    ):
        run_recipe(recipe, tmp_path / "out")
    recipe = write_yaml(tmp_path / "recipe.yaml", {**content, "localize": {"method": "mathneuro"}})
    with pytest.raises(ConfigError, match=r"^localize: method 'mathneuro' needs general texts"):
        run_recipe(recipe, tmp_path / "out")
