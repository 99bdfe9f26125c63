"""A tiny experiment on extraction from start to end: every method is measured at every size, and a plot is drawn."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from graft.errors import BudgetError, ConfigError
from graft.extraction.registry import EXTRACTION_METHODS
from graft.recipes import run as running
from graft.recipes.extraction import seed as seeding
from graft.recipes.extraction.summary import summarize
from graft.recipes.run import RunResult, load_experiment, run_recipe
from graft.recipes.seed_run import SeedRun
from graft.report.page.build_page import write_report
from graft.results.run import load_results
from graft.results.seeds import ExtractionSeed
from graft.specs.reader import load_yaml
from tests.chat_models import write_answers, write_chat_model
from tests.models import VERBALIZER, toy_content, write_yaml

METHODS: dict[str, Any] = {
    "refit": [0.01],
    "cut": [0.01, 0.3],
    "magnitude": [0.01],
    "columns": [2],
    "svd": [1, 32],
    "lora": [1],
    "lora_qv": [1],
    "bitdelta": [],
    "bitdelta_distilled": [1],
    "ultradelta": [0.9],
    "dense": [16, 32],
}


def write_recipe(shelf: Path, folder: Path, **changes: Any) -> Path:
    shutil.copytree(shelf / "toy", folder / "toy", dirs_exist_ok=True)
    content = {
        "kind": "extraction",
        "name": "tiny",
        "base": str(shelf / "base"),
        "task": "toy/task.yaml",
        "train": {"epochs": 3, "optimizer": "adamw", "lr": 0.005},
        "methods": METHODS,
        "extract": {"localize": {"points": 2}, "lora_rates": [3e-2]},
        "seeds": [0, 1],
        "expect": {"svd, rank 32.recovered_gain": {"value": 1, "tolerance": 0.1}},
    }
    return write_yaml(folder / "tiny.yaml", content | changes)


@pytest.fixture(scope="module")
def finished(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    """The recipe, broken off once and run to its end into out/ beside it."""
    folder = tmp_path_factory.mktemp("extraction")
    recipe = write_recipe(shelf, folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(seeding, "mean_divergence", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_recipe(recipe, folder / "out")
    return folder / "out", run_recipe(recipe, folder / "out")


@pytest.mark.parametrize(
    ("block", "refusal"),
    [
        # of two densities these would make one and the same patch, by the name of both
        ({"refit": {"structure": "columns", "lines": 2}}, "refit.lines: sizes are those that `methods` lists"),
        ({"refit": {"structure": "columns", "bytes": 900}}, "refit.bytes: sizes are"),
        ({"localize": {"budget": 5}}, "localize.budget: sizes are"),
        # which cut would not keep to, and say that it did
        ({"localize": {"max_rank": 1}}, "methods columns, rows and rank are for whole lines and a rank"),
        ({"localize": {"structure": "rows"}}, "methods columns, rows and rank are for"),
    ],
)
def test_a_size_or_structure_that_methods_have_themselves_is_refused(
    block: dict[str, Any], refusal: str, shelf: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=re.escape(refusal)):
        load_experiment(write_recipe(shelf, tmp_path, extract=block))
    load_experiment(write_recipe(shelf, tmp_path, extract={"refit": {"structure": "columns"}}))


def test_every_method_is_measured_at_every_size(finished: tuple[Path, RunResult]) -> None:
    out, result = finished
    assert not result.missed
    for seed in load_results(out).seeds:
        assert isinstance(seed, ExtractionSeed)
        sizes = {name: tuple(sizes) or EXTRACTION_METHODS[name].sizes for name, sizes in METHODS.items()}
        assert [(p.method, p.size) for p in seed.points] == [(name, size) for name in sizes for size in sizes[name]]
        assert seed.tuned["accuracy"] > seed.base["accuracy"] + 0.1
        assert seed.tuned["kl"] == 0
        assert seed.base["kl"] > 0.01
        for point in seed.points:
            assert point.n_bytes > 0
            assert point.numbers["n"] == 80
            gains = [item["accuracy"] - seed.base["accuracy"] for item in (point.numbers, seed.tuned)]
            assert point.numbers["recovered_gain"] == pytest.approx(gains[0] / gains[1])
        by_name = {(point.method, point.size): point for point in seed.points}
        assert by_name["dense", 32].numbers["kl"] < 1e-6 < seed.base["kl"]
        assert by_name["svd", 32].numbers["kl"] < by_name["svd", 1].numbers["kl"]
        assert by_name["lora", 1].found["lr"] == 3e-2


def test_tables_say_bytes_and_needs_and_the_plot_is_drawn(finished: tuple[Path, RunResult], tmp_path: Path) -> None:
    out, result = finished
    assert {path.name for path in out.iterdir()} == {"results.json", "table.md", "bytes.png", "weights.png"}
    whole = load_results(out).seeds[0].n_bytes
    assert f"{whole / 1e3:.3g} kB" in result.table
    for name in METHODS:
        needs = EXTRACTION_METHODS[name].needs
        assert any(line.startswith(f"| {name} ") and f"| {needs} " in line for line in result.table.splitlines())
    page = write_report([out], tmp_path / "page.html").page.read_text()
    assert "svd, rank 32" in page
    assert "in brackets what a method needs" in page


def test_a_broken_run_goes_on_where_it_was(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write_recipe(shelf, tmp_path, methods={"magnitude": [0.01, 0.02]}, seeds=[0], expect={})
    run_point, measured = seeding._run_point, []

    def run_any(*arguments: Any) -> Any:
        measured.append(arguments[-1])
        return run_point(*arguments)

    def run_one(*arguments: Any) -> Any:
        if len(measured) == 1:
            raise KeyboardInterrupt
        return run_any(*arguments)

    monkeypatch.setattr(seeding, "_run_point", run_one)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, tmp_path / "out")
    assert measured == [0.01]
    monkeypatch.setattr(seeding, "_run_point", run_any)
    monkeypatch.setattr(running, "drop_state", lambda _: None)
    run_recipe(recipe, tmp_path / "out")
    assert measured == [0.01, 0.02]
    assert {path.name for path in (tmp_path / "out" / "state" / "seed-0").iterdir()} == {"seed.json", "points"}


def test_sizes_that_differ_late_are_points_of_their_own(shelf: Path, tmp_path: Path) -> None:
    sizes = [0.4, 0.400000001]
    recipe = write_recipe(shelf, tmp_path, methods={"magnitude": sizes}, seeds=[0], expect={})
    result = run_recipe(recipe, tmp_path / "out")
    (seed,) = load_results(tmp_path / "out").seeds
    assert isinstance(seed, ExtractionSeed)
    assert [point.size for point in seed.points] == sizes
    assert {"magnitude, density 0.4", "magnitude, density 0.400000001"} < set(result.results["summary"])


def test_a_size_that_a_method_cannot_have_costs_its_point_alone(
    shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(shelf, tmp_path, methods={"columns": [9999, 2]}, seeds=[0], expect={})
    result = run_recipe(recipe, tmp_path / "out")
    (seed,) = load_results(tmp_path / "out").seeds
    assert isinstance(seed, ExtractionSeed)
    assert [(point.method, point.size) for point in seed.points] == [("columns", 2)]
    assert "note: seed 0: columns, columns 9999 is left out: a budget of 9,999 lines" in capsys.readouterr().err
    assert "columns, columns 9999" not in result.table
    one = dataclasses.replace(seed.points[0], size=4)
    assert set(summarize([dataclasses.replace(seed, points=(one, *seed.points)), seed])) == {
        *("base", "tuned", "columns, columns 2"),
    }
    with pytest.raises(BudgetError, match=r"a budget of 9,999 lines"):
        run_recipe(write_recipe(shelf, tmp_path, methods={"columns": [9999]}, seeds=[0], expect={}), tmp_path / "none")


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ({"zip": [1]}, "'zip' is not a method of extraction; choose from refit, refit_attribution"),
        ({"svd": [1.5]}, "svd: rank must be a whole number from 1 on, not 1.5"),
        ({"cut": [1]}, "cut: density must be a number above 0 and below 1, not 1"),
        ({"ultradelta": [0.9, 0]}, "ultradelta: sparsity must be a number above 0 and below 1, not 0"),
        ({"refit_other_texts": [0.1]}, "methods: refit_other_texts needs other_texts, a TASK file whose texts"),
    ],
)
def test_what_is_wrong_with_a_method_is_one_line(
    methods: dict[str, Any], said: str, shelf: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        load_experiment(write_recipe(shelf, tmp_path, methods=methods))
    assert "\n" not in str(refused.value)


def test_heads_without_labels_or_with_a_layer_of_their_own_are_refused(shelf: Path, tmp_path: Path) -> None:
    recipe = write_recipe(shelf, tmp_path)
    refused = {"classifier": "classifier has a layer of its own", "lm": "lm has no labels"}
    for kind, said in refused.items():
        content = toy_content(head={"kind": kind})
        if kind == "lm":
            del content["labels"], content["shots"]
        write_yaml(tmp_path / "toy" / "task.yaml", content)
        with pytest.raises(ConfigError, match=said):
            load_experiment(recipe)
    write_yaml(tmp_path / "toy" / "task.yaml", toy_content(head=VERBALIZER))
    assert load_experiment(recipe).recipe.name == load_yaml(recipe)["name"]


def test_a_model_that_writes_answers_is_made_small_too(tmp_path: Path) -> None:
    write_chat_model(tmp_path / "base")
    write_answers(tmp_path / "toy")
    methods = {"refit": [0.01], "sparse_sft": [0.01], "magnitude": [0.3], "svd": [8], "bitdelta": [1], "lora": [1]}
    content = {
        "kind": "extraction",
        "name": "answers",
        "base": str(tmp_path / "base"),
        "task": "toy/task.yaml",
        "methods": methods,
        "extract": {"localize": {"points": 2}, "lora_rates": [1e-2], "refit": {"texts": 48, "epochs": 1}},
        "evaluate": {"limit": 24},
        "seeds": [0],
    }
    recipe = write_yaml(tmp_path / "answers.yaml", content)
    result = run_recipe(recipe, tmp_path / "out")
    (seed,) = load_results(tmp_path / "out").seeds
    assert isinstance(seed, ExtractionSeed)
    assert [point.method for point in seed.points] == list(methods)
    assert seed.tuned["nll"] < seed.base["nll"] - 0.05
    by_method = {point.method: point.numbers for point in seed.points}
    assert by_method["svd"]["nll"] < seed.base["nll"] - 0.05
    assert all("kl" not in numbers for numbers in (seed.tuned, *by_method.values()))
    assert not result.missed
    assert (tmp_path / "out" / "bytes.png").is_file()
    write_yaml(recipe, content | {"methods": {"bitdelta_distilled": [1]}})
    with pytest.raises(ConfigError, match="bitdelta_distilled fits to logits of labels, which completion has none of"):
        load_experiment(recipe)


def test_a_set_of_novel_rows_is_measured_beside_none_and_refused_alone(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(shelf, tmp_path, methods={"svd": [1]}, ood=["svd"], seeds=[0], expect={})
    metrics = run_recipe(recipe, tmp_path / "out").results["summary"]["svd, rank 1"]
    assert {"meals.accuracy", "meals.ece"} <= metrics.keys()
    assert not [name for name in metrics if name.startswith("novel")]
    monkeypatch.setattr(SeedRun, "train", lambda *_: pytest.fail("it is refused before the first training"))
    for sets in ({"novel": "novel.jsonl"}, {}):
        write_yaml(tmp_path / "toy" / "task.yaml", toy_content(ood=sets))
        with pytest.raises(ConfigError, match=r"^ood: task 'moods' has no out-of-distribution set with rows of its la"):
            run_recipe(recipe, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_other_texts_are_part_of_a_runs_content(shelf: Path, tmp_path: Path) -> None:
    recipe = write_recipe(
        shelf, tmp_path, methods={"refit_other_texts": [0.01]}, other_texts="toy/task.yaml", seeds=[0]
    )
    experiment = load_experiment(recipe)
    assert list(experiment.used) == ["task", "other_texts"]
    assert list(experiment.files) == ["toy/task.yaml", "toy/task.yaml"]
    metrics = run_recipe(recipe, tmp_path / "out").results["summary"]
    assert metrics["refit_other_texts, density 0.01"]["kl"]["mean"] < metrics["base"]["kl"]["mean"]
