from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from graft.errors import ConfigError, DataError, GraftError, OutputError
from graft.patch.format.reading import load_patch
from graft.recipes.run import RunResult, load_experiment, run_recipe
from graft.recipes.seed_run import SeedContext
from graft.recipes.single import experiment as running
from graft.recipes.single import seed as seeding
from graft.recipes.single.experiment import SingleExperiment
from graft.recipes.single.seed import run_seed
from graft.recipes.single.seed_run import SingleRun
from graft.results.fields import to_json
from graft.results.seeds import SingleSeed
from graft.tasks.task import Task
from graft.train.fine_tuning import train_task
from tests.checkpoints import files_below
from tests.models import write_yaml

PATCHES = ("attribution", "magnitude")


def write_recipe(shelf: Path, path: Path, **changes: Any) -> Path:
    shutil.copytree(shelf / "toy", path.parent / "toy", dirs_exist_ok=True)
    content = {
        "kind": "single",
        "name": "tiny",
        "base": str(shelf / "base"),
        "task": "toy/task.yaml",
        "train": {"epochs": 3},
        "localize": {"density": 0.05, "points": 2},
        "controls": ["magnitude"],
        "seeds": [0, 1],
        "expect": {
            "graft.accuracy": {"value": 0.75, "tolerance": 0.25},
            "tuned.meals.accuracy": {"value": 0.1, "tolerance": 0.05},
            "tuned.beauty": {"value": 1, "tolerance": 1},
        },
    }
    return write_yaml(path, content | changes)


def experiment_of(path: Path, *assignments: str) -> SingleExperiment:
    experiment = load_experiment(path, assignments)
    assert isinstance(experiment, SingleExperiment)
    return experiment


@pytest.fixture(scope="module")
def finished(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    """The recipe, run once from start to end into out/ beside it."""
    folder = tmp_path_factory.mktemp("recipe")
    recipe = write_recipe(shelf, folder / "tiny.yaml")
    return recipe, run_recipe(recipe, folder / "out")


def test_the_folder_holds_everything(finished: tuple[Path, RunResult]) -> None:
    recipe, result = finished
    out = recipe.parent / "out"
    assert {path.name for path in out.iterdir()} == {
        *("patches", "results.json", "table.md", "reliability.png", "layers.png"),
    }
    names = {f"{method}-seed-{seed}.safetensors" for method in PATCHES for seed in (0, 1)}
    assert {path.name for path in (out / "patches").iterdir()} == names
    assert all(path.is_file() for path in result.files)
    assert (out / "table.md").read_text() == result.table + "\n"
    assert json.loads((out / "results.json").read_text()) == result.results


def test_the_results_say_what_happened(finished: tuple[Path, RunResult]) -> None:
    results = finished[1].results
    scaled = "tuned, temperature-scaled"
    assert list(results["summary"]) == ["base", "tuned", "graft (attribution)", "graft (magnitude)", scaled]
    summary = {name: figures["accuracy"]["mean"] for name, figures in results["summary"].items()}
    assert summary["tuned"] > summary["base"] + 0.1
    assert summary["graft (attribution)"] > summary["base"]
    assert results["summary"]["base"].get("recovered_gain") is None
    seeds = results["seeds"]
    assert [seed["seed"] for seed in seeds] == [0, 1]
    first = seeds[0]
    assert first["models"] != seeds[1]["models"]
    gain = first["models"]["tuned"]["accuracy"] - first["models"]["base"]["accuracy"]
    graft = first["models"]["graft (attribution)"]
    assert graft["recovered_gain"] == pytest.approx(
        (graft["accuracy"] - first["models"]["base"]["accuracy"]) / gain, abs=1e-9
    )
    assert set(first["differences"]) == {"base", "tuned", "graft (magnitude)", scaled}
    assert sum(first["bins"]["tuned"]["count"]) == first["models"]["tuned"]["n"] == 80
    stages = {"train", "localize", "evaluate", "refit", "controls", "necessity", "curve"}
    assert set(first["seconds"]) == stages
    assert set(first["detection"]) == {"meals", "novel"}
    assert first["curve"] == []


def test_differences_are_pooled_over_seeds(finished: tuple[Path, RunResult]) -> None:
    results = finished[1].results
    pooled = results["pooled"]["graft (magnitude)"]["test"]["accuracy"]
    parts = [seed["differences"]["graft (magnitude)"]["test"]["accuracy"] for seed in results["seeds"]]
    assert pooled["mean"] == pytest.approx(sum(part["estimate"] for part in parts) / 2)
    assert pooled["low"] == pytest.approx(sum(part["low"] for part in parts) / 2)
    assert set(results["pooled"]["base"]) == {"test", "meals"}


def test_patches_carry_their_metrics_and_budget(finished: tuple[Path, RunResult]) -> None:
    recipe, result = finished
    for seed in result.results["seeds"]:
        for method in PATCHES:
            patch = load_patch(recipe.parent / "out" / "patches" / f"{method}-seed-{seed['seed']}.safetensors")
            assert len(patch) == seed["k"] == int(0.05 * patch.provenance.base.n_parameters + 0.5)
            assert patch.provenance.metrics == seed["models"][f"graft ({method})"]
            assert patch.provenance.method["seed"] == seed["seed"]


def test_expectations_that_were_missed_are_reported(finished: tuple[Path, RunResult]) -> None:
    missed = finished[1].missed
    assert len(missed) == 2  # the first one was met
    assert missed[0].startswith("tuned.meals.accuracy is ")
    assert missed[0].endswith(", expected 0.1 ± 0.05")
    assert missed[1] == "tuned.beauty: no such figure"


def test_a_run_that_was_broken_off_goes_on_with_the_next_seed(
    finished: tuple[Path, RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, whole = finished
    begun: list[int] = []

    def interrupted(run: SingleRun) -> SingleSeed:
        begun.append(run.seed)
        if begun == [0, 1]:
            raise KeyboardInterrupt
        return run_seed(run)

    monkeypatch.setattr(running, "run_seed", interrupted)
    monkeypatch.setattr("graft.recipes.run.draw_plots", lambda _: [])  # slow, and drawn in the run it is compared with
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, tmp_path / "out")
    assert not (tmp_path / "out" / "results.json").exists()
    assert "seed.json" in files_below(tmp_path / "out" / "state" / "seed-0")
    assert files_below(tmp_path / "out" / "patches") == [f"{method}-seed-0.safetensors" for method in PATCHES]
    with pytest.raises(OutputError, match=r"out holds an unfinished run of other content: recipe.localize.density"):
        run_recipe(recipe, tmp_path / "out", assignments=("localize.density=0.1",))
    result = run_recipe(recipe, tmp_path / "out")
    assert begun == [0, 1, 1]
    without_time = [[{**seed, "seconds": None} for seed in item.results["seeds"]] for item in (result, whole)]
    assert without_time[0] == without_time[1]
    assert result.table == whole.table


def test_a_checkpoint_of_an_earlier_try_is_taken_up_only_where_it_is_the_same(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_recipe(shelf, tmp_path / "tiny.yaml", localize={"method": "magnitude", "density": 0.05}, controls=[])
    trained: list[int] = []

    def count(base: Any, task: Task, *rest: Any, **options: Any) -> Any:
        trained.append(task.spec.seed)
        return train_task(base, task, *rest, **options)

    monkeypatch.setattr(seeding, "train_task", count)

    def seed_of(*assignments: str) -> dict[str, Any]:
        run = experiment_of(path, *assignments).at(SeedContext(0, tmp_path / "seed-0", tmp_path / "patches"))
        return {**to_json(run_seed(run)), "seconds": None}

    first = seed_of()
    assert trained == [0]
    assert seed_of() == first
    assert trained == [0]
    assert seed_of("train.lr=0.01")["models"]["tuned"] != first["models"]["tuned"]
    assert trained == [0, 0]
    assert seed_of() == first
    assert trained == [0, 0, 0]


def test_a_finished_run_is_not_overwritten_but_by_force(
    finished: tuple[Path, RunResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, _ = finished
    shutil.copytree(recipe.parent / "out", tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(running, "run_seed", lambda *_, **__: (_ for _ in ()).throw(GraftError("begun anew")))
    for taken in ("out", "file"):
        with pytest.raises(OutputError, match=rf"{taken} exists already"):
            run_recipe(recipe, tmp_path / taken)
    assert (tmp_path / "out" / "results.json").is_file()
    for taken in ("out", "file"):
        with pytest.raises(GraftError, match="begun anew"):
            run_recipe(recipe, tmp_path / taken, force=True)
        assert files_below(tmp_path / taken) == ["state/recipe.json"]


def test_assignments_and_the_train_block_override(shelf: Path, tmp_path: Path) -> None:
    path = write_recipe(shelf, tmp_path / "tiny.yaml", train={"lr": 1e-05, "scope": "layers"})
    experiment = experiment_of(path, "seeds=[7]", "localize.density=1e-3", "train.epochs=2", "name=other")
    recipe, task = experiment.recipe, experiment.task
    assert (recipe.seeds, recipe.localize.density, recipe.localize.points, recipe.name) == ((7,), 1e-3, 2, "other")
    train = task.spec.train
    assert (train.epochs, train.lr, train.scope, train.batch_size) == (2, 1e-5, "layers", 8)


def test_the_untouched_base_is_measured_once_for_all_seeds(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, head = experiment_of(write_recipe(shelf, tmp_path / "tiny.yaml")), Mock()
    monkeypatch.setattr(SingleRun, "predict", lambda *_: object())
    first, second = (experiment.at(SeedContext(seed, tmp_path / str(seed), tmp_path)) for seed in (0, 1))
    assert first.predict_base(head) is second.predict_base(head)
    own_rows = Task.load(tmp_path / "toy" / "task.yaml", ("head={kind: classifier}",))  # which a seed draws
    first, second = (dataclasses.replace(run, task=own_rows) for run in (first, second))
    assert first.predict_base(head) is not second.predict_base(head)


def test_a_base_may_lie_beside_the_recipe(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(shelf / "base", tmp_path / "bases" / "own")
    (tmp_path / "recipes").mkdir()
    path = write_recipe(shelf, tmp_path / "recipes" / "tiny.yaml", base="../bases/own")
    monkeypatch.chdir(tmp_path / "bases")  # wherever one stands
    assert Path(load_experiment(path).recipe.base).samefile(tmp_path / "bases" / "own")
    assert load_experiment(path, ("base=embedded:all-MiniLM-L6-v2",)).recipe.base == "embedded:all-MiniLM-L6-v2"
    assert load_experiment(path, ("base=own",)).recipe.base == "own"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sead": [0]}, r"tiny.yaml: unknown key 'sead' \(did you mean 'seeds'\?\); allowed are name, base, task"),
        ({"localize": {"densety": 1}}, r"localize: unknown key 'densety' \(did you mean 'density'\?\)"),
        ({"localize": {"points": 0}}, r"localize: points must be 1 or more"),
        ({"controls": ["luck"]}, r"controls: 'luck' is not a control; choose from vectors_only, random_in_tensors, "),
        ({"train": {"rate": 1}}, r"task.yaml: train: unknown key 'rate'.*allowed are optimizer"),
        ({"train": {"lr": "2020-01-01"}}, r"task.yaml: train: lr: must be a number"),
        ({"seeds": []}, r"seeds must be one or more different"),
        ({"seeds": [1, 1]}, r"seeds must be one or more different"),
        ({"seeds": [-1]}, r"seed must be a whole number from 0"),
        ({"analysis": {"control": []}}, r"analysis: unknown key 'control' \(did you mean 'controls'\?\)"),
        (
            {"analysis": {"controls": ["luck"]}},
            r"analysis: controls.*temperature, interpolation, early",
        ),
        ({"analysis": {"curve": {"densities": [0]}}}, r"densities must be one or more numbers above 0 and at most 1"),
        (
            {"analysis": {"curve": {"densities": [0.1], "methods": ["luck"]}}},
            r"analysis.curve.methods: 'luck' is not a control; choose from",
        ),
        ({"evaluate": {"batch_size": 0}}, r"evaluate: batch_size and limit must be 1 or more"),
        ({"expect": {"graft.ece": 0.1}}, r"expect.graft.ece: must be a mapping"),
        ({"task": "gone.yaml"}, r"gone.yaml: cannot be read"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named(changes: dict[str, Any], said: str, shelf: Path, tmp_path: Path) -> None:
    assert load_experiment(write_recipe(shelf, tmp_path / "tiny.yaml")).recipe.name == "tiny"
    with pytest.raises(ConfigError, match=said):
        load_experiment(write_recipe(shelf, tmp_path / "tiny.yaml", **changes))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_dtype_in_which_no_patch_lands_is_said_before_training(
    dtype: str, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*_: Any, **__: Any) -> None:
        raise GraftError("the first seed is begun")

    recipe = write_recipe(shelf, tmp_path / "tiny.yaml")
    monkeypatch.setattr(running, "run_seed", reached)
    with pytest.raises(GraftError, match="the first seed is begun"):
        run_recipe(recipe, tmp_path / "same", dtype="float32")
    with pytest.raises(ConfigError, match=rf"dtype {dtype}: .*base is kept in F32, where its patches land"):
        run_recipe(recipe, tmp_path / "out", dtype=dtype)
    assert not (tmp_path / "out").exists()


def test_bad_data_are_said_before_anything_is_made(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(shelf, tmp_path / "tiny.yaml")
    monkeypatch.setattr(running, "run_seed", None)  # not reached
    for file in ("train", "validation", "test", "meals", "novel"):
        good = (tmp_path / "toy" / f"{file}.jsonl").read_text()
        (tmp_path / "toy" / f"{file}.jsonl").write_text('{"text": "x", "label": 9}\n')
        with pytest.raises(DataError, match=rf"{file}.jsonl, row 1: label 9 is outside the list"):
            run_recipe(recipe, tmp_path / "out")
        (tmp_path / "toy" / f"{file}.jsonl").write_text(good)
    assert Task.load(tmp_path / "toy" / "task.yaml").train_examples()
    assert not (tmp_path / "out").exists()
