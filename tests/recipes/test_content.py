"""An unfinished run goes on with the same base, data and settings, wherever these lie; any other is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from graft.errors import BudgetError, ConfigError, OutputError
from graft.recipes.extraction import experiment as extraction
from graft.recipes.forgetting import experiment as forgetting
from graft.recipes.multitask import experiment as multitask
from graft.recipes.planted import experiment as planted
from graft.recipes.run import run_recipe
from graft.recipes.single import experiment as single
from graft.recipes.state import find_or_read
from graft.specs.adapter import AdapterSpec
from graft.specs.reader import load_yaml
from graft.train import adapter, epochs
from graft.train.importance import importance_file
from tests.models import write_yaml
from tests.recipes.forgetting.test_forgetting import bench_of
from tests.recipes.toy_tasks import write_toy_tasks

SEEDS = {
    "single": single,
    "multitask": multitask,
    "forgetting": forgetting,
    "extraction": extraction,
    "planted": planted,
}
RECIPES: dict[str, dict[str, Any]] = {
    "single": {"task": "films/task.yaml", "localize": {"density": 0.05}},
    "multitask": {"tasks": ["films/task.yaml", "long/task.yaml"], "beside": ["meals/task.yaml"]},
    "forgetting": {
        "general": ["meals/task.yaml"],
        "domains": [{"task": "films/task.yaml", "limit": 90}],
        "methods": {"full": {}},
        "start": {"task": "long/task.yaml"},
    },
    "extraction": {"task": "films/task.yaml", "methods": {"magnitude": [0.05]}},
    "planted": {"task": "films/task.yaml", "drift": "long/task.yaml", "methods": ["magnitude"], "densities": [0.05]},
}
ROLE = {"single": "task", "multitask": "tasks", "forgetting": "domains", "extraction": "task", "planted": "task"}


class Begun(Exception):
    """The first seed is begun."""


@pytest.fixture(params=RECIPES)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    def begin(*_: Any, **__: Any) -> None:
        raise Begun

    monkeypatch.setattr(SEEDS[request.param], "run_seed", begin)
    return str(request.param)


@pytest.fixture
def recipe(kind: str, shelf: Path, tmp_path: Path) -> Path:
    """A recipe with all that it needs in one folder, begun there in out/."""
    shutil.copytree(shelf / "base", tmp_path / "one" / "base")
    write_toy_tasks(tmp_path / "one")
    for name in ("films", "meals", "long"):
        file = tmp_path / "one" / name / "task.yaml"
        write_yaml(file, {key: value for key, value in load_yaml(file).items() if key != "shots"})
    common = {
        "kind": kind,
        "name": "tiny",
        "base": "./base",
        "seeds": [0, 1],
        "train": {"epochs": 1},
        "evaluate": {"limit": 95},
    }
    path = write_yaml(tmp_path / "one" / "recipe.yaml", common | RECIPES[kind])
    with pytest.raises(Begun):
        run_recipe(path, tmp_path / "one" / "out")
    return path


def edit(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = load_yaml(file)
    change(content)
    write_yaml(file, content)


def last_row(file: Path, row: int) -> None:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[row]["label"] = 1 - rows[row]["label"]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def scale(base: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    name = sorted(tensors)[-1]
    save_file(tensors | {name: tensors[name] * 1.5}, base / "model.safetensors", metadata={"format": "pt"})


CHANGES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "a base's tensor": (r"base.weights", lambda f: scale(f / "base")),
    "a base's config": (
        r"base.config",
        lambda f: (f / "base" / "config.json").write_text((f / "base" / "config.json").read_text().replace("0.1", "0")),
    ),
    "a training row": (r"ROLE.films.train examples", lambda f: last_row(f / "films" / "train.jsonl", -1)),
    "a validation row": (r"ROLE.films.validation examples", lambda f: last_row(f / "films" / "validation.jsonl", 0)),
    "a test row": (r"ROLE.films.test examples", lambda f: last_row(f / "films" / "test.jsonl", 0)),
    "shots": (
        r"ROLE.films.shots \(absent then, 3 now\)",
        lambda f: edit(f / "films" / "task.yaml", lambda t: t.update(shots=3)),
    ),
    "a head's text": (
        r"ROLE.films.head.texts",
        lambda f: edit(f / "films" / "task.yaml", lambda t: t["head"].update(texts=["bad", "good"])),
    ),
    "a task's rate": (
        r"ROLE.films.train.lr \(0.1 then, 0.5 now\)",
        lambda f: edit(f / "films" / "task.yaml", lambda t: t["train"].update(lr=0.5)),
    ),
    "a limit": (
        r"recipe.evaluate.limit \(95 then, 9 now\)",
        lambda f: edit(f / "recipe.yaml", lambda r: r.update(evaluate={"limit": 9})),
    ),
    "seeds": (r"recipe.seeds", lambda f: edit(f / "recipe.yaml", lambda r: r.update(seeds=[0, 2]))),
}


@pytest.mark.parametrize(("named", "change"), CHANGES.values(), ids=CHANGES)
def test_a_run_of_another_content_is_not_taken_up(named: str, change: Any, kind: str, recipe: Path) -> None:
    out = recipe.parent / "out"
    (out / "state" / "seed-0").mkdir()
    (out / "state" / "seed-0" / "seed.json").write_text("{}")  # of the first seed, which is not measured again
    with pytest.raises(Begun):
        run_recipe(recipe, out)
    change(recipe.parent)
    named = named.replace("ROLE", ROLE[kind])
    with pytest.raises(OutputError, match=rf"out holds an unfinished run of other content: .*{named}.*; pass --force"):
        run_recipe(recipe, out)
    assert (out / "state" / "seed-0" / "seed.json").exists()
    with pytest.raises(Begun):
        run_recipe(recipe, out, force=True)
    assert not (out / "state" / "seed-0").exists()


def test_the_same_content_in_another_place_goes_on(recipe: Path, tmp_path: Path) -> None:
    (recipe.parent / "out" / "mine").touch()
    here = recipe.parent.rename(tmp_path / "two")
    (here / "base").rename(here / "model")
    (here / "films" / "test.jsonl").rename(here / "films" / "rows.jsonl")
    edit(here / "films" / "task.yaml", lambda task: task["data"].update(test="rows.jsonl"))
    edit(here / "recipe.yaml", lambda r: r.update(base=str(here / "model"), minutes=3.0, hardware="a clock"))
    with pytest.raises(Begun):
        run_recipe(here / "recipe.yaml", here / "out")
    assert (here / "out" / "mine").exists()


@pytest.mark.parametrize("kind", ["forgetting"], indirect=True)
def test_a_set_beside_and_a_single_limit_count_too(recipe: Path) -> None:
    for file, named in (("meals", "general.meals.test examples"), ("long", "start.long.train examples")):
        split = recipe.parent / file / f"{named.split()[0].rpartition('.')[2]}.jsonl"
        before = split.read_text()
        last_row(split, 1)
        with pytest.raises(OutputError, match=rf"other content: {named};"):
            run_recipe(recipe, recipe.parent / "out")
        split.write_text(before)
    edit(recipe, lambda r: r["domains"][0].update(limit=5))
    with pytest.raises(OutputError, match=r"other content: domains.films.test examples;"):
        run_recipe(recipe, recipe.parent / "out")


@pytest.mark.parametrize("kind", ["single"], indirect=True)
def test_a_file_of_importance_counts_by_its_bytes(recipe: Path, tmp_path: Path) -> None:
    file = tmp_path / "importance.safetensors"
    file.write_bytes(b"one")
    held = (f"train.regularize={{importance: {file}}}",)
    with pytest.raises(Begun):
        run_recipe(recipe, tmp_path / "held", assignments=held)
    moved = file.rename(tmp_path / "moved")
    with pytest.raises(Begun):
        run_recipe(recipe, tmp_path / "held", assignments=(held[0].replace(str(file), str(moved)),))
    file.write_bytes(b"two")
    with pytest.raises(OutputError, match=r"other content: .*regularize.importance"):
        run_recipe(recipe, tmp_path / "held", assignments=held)
    assert importance_file.digest_of_file(file) not in (tmp_path / "held" / "state" / "recipe.json").read_text()


def test_figures_that_cannot_be_read_are_found_again(tmp_path: Path) -> None:
    for text in ('{"a": 1}', '{"a":', "[1]", ""):
        (tmp_path / "f.json").write_text(text)
        expected = {"a": 1} if text == '{"a": 1}' else {"b": 2}
        assert find_or_read(tmp_path / "f.json", Mapping[str, int], lambda: {"b": 2}) == expected


@pytest.mark.parametrize("adapted", [None, AdapterSpec(rank=2)], ids=["plain", "adapter"])
def test_a_training_is_taken_up_for_what_it_holds_not_for_its_name(
    adapted: AdapterSpec | None, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_toy_tasks(tmp_path)
    common = {
        "kind": "forgetting",
        "name": "tiny",
        "base": str(shelf / "base"),
        "shots": 8,
        "train": {"epochs": 1, "l1": 0.0},
    }
    recipe = write_yaml(tmp_path / "r.yaml", common | RECIPES["forgetting"])
    bench = bench_of(recipe, tmp_path / "seed-0")
    tasks, trained = [bench.domains[0].task], []
    for module, name in ((adapter, "train_epoch"), (epochs, "train_epoch")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, real=real: (trained.append(1), real(*given))[1])
    out = bench.train(shelf / "base", tasks, adapter=adapted)
    first = (out / "model.safetensors").read_bytes()
    assert bench.train(shelf / "base", tasks, adapter=adapted) == out
    assert len(trained) == 1
    shutil.copy(shelf / "base" / "model.safetensors", out)  # other weights under the same name
    assert bench.train(shelf / "base", tasks, adapter=adapted) == out
    assert len(trained) == 2
    assert (out / "model.safetensors").read_bytes() == first
    (out / "graft_training.json").unlink()
    bench.train(shelf / "base", tasks, adapter=adapted)
    assert len(trained) == 3


BUDGETS: dict[str, dict[str, dict[str, Any]]] = {
    "planted": {"densities": {"densities": [0.05, 0.99]}},
    "extraction": {"methods.magnitude": {"methods": {"magnitude": [1e-9]}}},
    "single": {"localize": {"localize": {"density": 0.9, "scope": "embeddings"}}},
    "multitask": {
        "localize": {"localize": {"density": 1e-9}},
        "unions.all": {"unions": {"all": {"density": 0.9}}},
        "sequences.one": {"sequences": {"one": {"graft": True, "density": 0.9}}},
    },
    "forgetting": {
        "start.localize": {"start": {"task": "long/task.yaml", "localize": {"budget": 10**9}}},
        "methods.patch": {"methods": {"patch": {"graft": {"density": 0.9}}}},
    },
}


def test_a_budget_that_cannot_be_met_is_refused_before_the_first_training(kind: str, recipe: Path) -> None:
    whole = load_yaml(recipe)
    for key, changes in BUDGETS[kind].items():
        write_yaml(recipe, whole | changes)
        with pytest.raises(BudgetError, match=rf"{key}: a budget of|keeps no entry"):
            run_recipe(recipe, recipe.parent / "fresh")
        assert not (recipe.parent / "fresh").exists()
    write_yaml(recipe, whole | {"train": {"localizable": {"density": 1e-3}}, "localize": {"density": 1e-2}})
    with pytest.raises(
        BudgetError if kind in ("single", "multitask") else ConfigError,
        match=r"at most|unknown key|belongs to a recipe of kind",
    ):
        run_recipe(recipe, recipe.parent / "fresh")


@pytest.mark.parametrize("kind", ["forgetting"], indirect=True)
def test_whether_a_task_is_replayed_counts_and_so_does_force(recipe: Path) -> None:
    out = recipe.parent / "out"
    (out / "state" / "seed-0").mkdir()
    edit(recipe, lambda r: r.update(general=[{"task": "meals/task.yaml", "replay": False}]))
    with pytest.raises(OutputError, match=r"other content: recipe.replay"):
        run_recipe(recipe, out)
    edit(recipe, lambda r: r.update(general=[{"task": "meals/task.yaml", "replay": True}]))  # as where nothing is said
    with pytest.raises(Begun):
        run_recipe(recipe, out)
    assert (out / "state" / "seed-0").exists()
    with pytest.raises(Begun):
        run_recipe(recipe, out, force=True)  # anew, though the content is the same
    assert not (out / "state" / "seed-0").exists()


@pytest.mark.parametrize("kind", ["extraction"], indirect=True)
def test_texts_without_a_label_count_where_they_are_fitted_to(recipe: Path) -> None:
    rows = recipe.parent / "films" / "train.jsonl"
    rows.write_text(rows.read_text() + json.dumps({"text": "of no class", "label": -1}) + "\n")
    with pytest.raises(OutputError, match=r"other content: task.films.texts"):
        run_recipe(recipe, recipe.parent / "out")
