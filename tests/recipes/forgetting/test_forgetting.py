"""A tiny experiment on forgetting from start to end: every method learns, is measured, and keeps what it promises."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from graft.errors import ConfigError, OutputError
from graft.files.location import locate
from graft.recipes import run as running
from graft.recipes.forgetting.experiment import ForgettingExperiment
from graft.recipes.forgetting.seed_run import ForgettingRun
from graft.recipes.run import RunResult, load_experiment, run_recipe
from graft.recipes.seed_run import SeedContext
from graft.specs.forgetting import MethodSpec
from graft.tensors.checkpoint import Checkpoint
from tests.checkpoints import changed_entries, count
from tests.models import write_task, write_yaml
from tests.recipes.toy_tasks import write_toy_tasks

SLOW: dict[str, Any] = {"lr": 0.05}
METHODS: dict[str, Any] = {
    "full": {"grid": {"train.lr": [0.05, 0.3]}},
    "top layer": {"train": {"scope": r"layer\.1\."}},
    "core": {"protect": {"by": "saliency", "share": 0.1}, "grid": {"protect.share": [0.1, 0.5]}},
    "random core": {"protect": {"by": "random", "share": 0.5}},
    "ewc": {"regularize": {"importance": "fisher", "strength": 10.0, "layers": "none", "step": "proximal"}},
    "l2": {"regularize": {"importance": "uniform", "strength": 1.0, "step": "proximal"}},
    "replay": {"replay": 4},
    "lora": {"train": {"optimizer": "adamw", "lr": 1e-2}, "peft": {"kind": "lora", "rank": 2}},
    "osf": {"train": {"optimizer": "adamw", "lr": 1e-2}, "peft": {"kind": "osf"}},
    "shira": {"train": {"optimizer": "adamw", "lr": 1e-2}, "peft": {"kind": "shira", "rank": 2}},
    "patch": {"graft": {"method": "magnitude", "scope": "all"}, "grid": {"graft.density": [1e-3, 1e-2]}},
    "localizable": {"train": {"localizable": {"density": 0.01, "proximal_epochs": 1, "epochs": 1}}},
}
RECIPE: dict[str, Any] = {
    "kind": "forgetting",
    "name": "tiny",
    "general": ["meals/task.yaml"],
    "domains": [{"task": "films/task.yaml", "shots": 12, "limit": 30}, "long/task.yaml"],
    "shots": 8,
    "train": {"epochs": 2, "lr": 0.2, "l1": 0.0},
    "methods": METHODS,
    "evaluate": {"limit": 40},
    "seeds": [0, 1],
    "expect": {
        "mean.full, lr 0.3.gain": {"value": 20, "tolerance": 40},
        "films.full.beauty": {"value": 1, "tolerance": 0},
    },
}


@pytest.fixture(scope="module")
def recipe(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The moods of meals are known; the moods of films and the length of sentences are to be learned."""
    folder = tmp_path_factory.mktemp("retention")
    write_toy_tasks(folder, films=["good happy", "bad sorry"])
    return write_yaml(folder / "forget.yaml", RECIPE | {"base": str(shelf / "base")})


@pytest.fixture(scope="module")
def finished(recipe: Path) -> Iterator[RunResult]:
    """The recipe, run once into out/ beside it; its state stays, as if it had been broken off at the very end."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(running, "drop_state", lambda _: None)
        yield run_recipe(recipe, recipe.parent / "out")


def bench_of(recipe: Path, folder: Path, *assignments: str) -> ForgettingRun:
    experiment = load_experiment(recipe, assignments)
    assert isinstance(experiment, ForgettingExperiment)
    return experiment.at(SeedContext(0, folder, folder / "patches"))


def test_every_point_is_measured_on_its_domain_and_on_what_was_known(finished: RunResult) -> None:
    names = [
        point.name for point in load_experiment(Path(finished.files[0]).parent.parent / "forget.yaml").recipe.points()
    ]
    assert len(names) == 15
    assert {"full, lr 0.05", "full, lr 0.3", "core, share 0.5", "patch, density 0.001"} <= set(names)
    for seed in finished.results["seeds"]:
        assert list(seed["base"]) == ["films", "long", "meals"]
        for domain, points in seed["domains"].items():
            assert list(points) == names
            for found in points.values():
                assert list(found["figures"]) == [domain, "meals"]
                assert found["figures"][domain]["test"]["n"] == (30 if domain == "films" else 40)
    summary = finished.results["summary"]
    assert list(summary) == ["films", "long", "mean"]
    row = summary["mean"]["full, lr 0.3"]["figures"]
    by_hand = [
        sum(
            100 * (seed["domains"][d]["full, lr 0.3"]["figures"][d]["test"]["score"] - seed["base"][d]["test"]["score"])
            for d in ("films", "long")
        )
        / 2
        for seed in finished.results["seeds"]
    ]
    assert row["gain"]["values"] == pytest.approx(by_hand)
    assert row["gain"]["half"] is not None


def test_flips_are_what_the_accuracy_moved_by_and_are_shown_beside_chance(finished: RunResult) -> None:
    for seed in finished.results["seeds"]:
        before = seed["base"]["meals"]["test"]["accuracy"]
        for points in seed["domains"].values():
            tests = [found["figures"]["meals"]["test"] for found in points.values()]
            for test in tests:
                assert before - test["lost"] + test["won"] == pytest.approx(test["accuracy"])
            assert any(test["lost"] > 0 for test in tests)  # the control
    assert "films, flips of meals:" in finished.table
    assert "lost, independent" in finished.table


def test_learning_the_opposite_forgets_and_replay_keeps(finished: RunResult) -> None:
    films = {name: row["figures"] for name, row in finished.results["summary"]["films"].items()}
    assert films["full, lr 0.3"]["gain"]["mean"] > 10
    assert films["full, lr 0.3"]["general"]["mean"] < -3
    assert films["replay"]["general"]["mean"] > films["full, lr 0.3"]["general"]["mean"]


def test_the_folder_holds_tables_and_the_plane_but_no_checkpoints(finished: RunResult, recipe: Path) -> None:
    out = recipe.parent / "out"
    names = {"state", "results.json", "table.md", "plane.png"}
    assert {path.name for path in out.iterdir()} == names
    left = {path.name for path in (out / "state" / "seed-0").iterdir()}
    assert left == {"seed.json", "points", "fisher.safetensors"}
    assert (out / "table.md").read_text() == finished.table + "\n"
    for word in ("Beaten by", "gain / general change", "core, share 0.5", "localizable", "meals"):
        assert word in finished.table
    assert finished.missed == ("films.full.beauty: no such figure",)


def test_a_broken_run_goes_on_point_by_point(
    finished: RunResult, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = recipe.parent / "out"
    with pytest.raises(OutputError, match="exists already"):
        run_recipe(recipe, out)
    for name in ("results.json", "state/seed-1/seed.json", "state/seed-1/points/long-00.json"):
        (out / name).rename(recipe.parent / name.replace("/", "-"))
    learned: list[str] = []
    real = ForgettingRun.learn

    def learn(bench: ForgettingRun, domain: Any, how: Any) -> Path:
        learned.append(domain.spec.name)
        return real(bench, domain, how)

    monkeypatch.setattr(ForgettingRun, "learn", learn)
    again = run_recipe(recipe, out)
    assert learned == ["long"]
    assert _without_seconds(again.results["summary"]) == _without_seconds(finished.results["summary"])


def _without_seconds(summary: Any) -> Any:
    return {
        domain: {
            name: {key: item for key, item in row["figures"].items() if key != "seconds"} for name, row in rows.items()
        }
        for domain, rows in summary.items()
    }


@pytest.mark.parametrize("by", ["saliency", "fisher", "random"])
def test_a_core_stays_and_the_rest_moves(by: str, recipe: Path, tmp_path: Path) -> None:
    bench = bench_of(recipe, tmp_path)
    how = load_experiment(recipe, (f"methods={{m: {{protect: {{by: {by}, share: 0.5}}}}}}",)).recipe.methods["m"]
    region = bench.region(how.protect)
    base = Checkpoint.open(locate(bench.recipe.base).path)
    assert len(region) == int(0.5 * base.n_parameters + 0.5)
    free, kept = (
        changed_entries(bench.start, bench.learn(bench.domains[0].task, each)) for each in (MethodSpec(), how)
    )
    assert sum(int(free[name][torch.tensor(region[name])].sum()) for name in region) > 100  # the control
    assert sum(int(kept[name][torch.tensor(region[name])].sum()) for name in region) == 0
    assert count(kept) > 100


def test_a_patch_alone_moves_as_much_as_its_density_and_an_adapter_its_layers(recipe: Path, tmp_path: Path) -> None:
    bench = bench_of(recipe, tmp_path)
    n = Checkpoint.open(locate(bench.recipe.base).path).n_parameters
    how = {point.name: point.how for point in bench.recipe.points()}
    domain = bench.domains[0].task
    assert count(changed_entries(bench.start, bench.learn(domain, how["patch, density 0.01"]))) == int(0.01 * n + 0.5)
    for name, most in (("lora", n), ("shira", n / 8)):  # a product is dense once it is merged
        changed = changed_entries(bench.start, bench.learn(domain, how[name]))
        assert {name.rpartition(".")[2] for name, flags in changed.items() if flags.any()} == {"weight"}
        assert not any(flags.any() for name, flags in changed.items() if "embeddings" in name or "Norm" in name)
        assert 0 < count(changed) < most


def test_a_start_is_a_skill_grafted_on_and_its_region_can_be_kept(recipe: Path, tmp_path: Path) -> None:
    start = "start={task: meals/task.yaml, localize: {method: magnitude, density: 0.01, scope: all}}"
    methods = "methods={none: {}, region: {protect: {by: patch}}, random: {protect: {by: random}}}"
    result = run_recipe(recipe, tmp_path / "out", assignments=(start, methods, "seeds=[0]", "expect={}"))
    (seed,) = result.results["seeds"]
    assert list(seed["start"]) == list(seed["base"])
    assert "start" in result.table
    bench = bench_of(recipe, tmp_path / "bench", start, methods)
    assert bench.patch is not None
    assert seed["k"] == len(bench.patch)
    regions = {name: bench.region(how.protect) for name, how in bench.recipe.methods.items() if how.protect}
    assert regions["region"] == bench.patch.mask
    assert len(regions["random"]) == len(bench.patch)
    assert count(changed_entries(bench.recipe.base, Path(bench.start))) == len(bench.patch)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("general=[]", "general, domains and methods must each hold one or more"),
        ("general=[films/task.yaml]", "two tasks have one name"),
        ("seeds=[1, 1]", "seeds must be one or more different"),
        ("methods.full.grid={train.lr: [1], train.epochs: [1]}", "grid must hold one key"),
        ("methods.full.grid={train.rate: [1]}", "unknown key 'rate'"),
        ("methods.full.grid={rate: [1]}", "unknown key 'rate'"),
        ("methods.core={protect: {by: saliency}}", "protection by saliency needs a share"),
        ("methods.core={protect: {by: patch}}", "there is no start"),
        ("methods.core={protect: {by: luck}}", "must be one of saliency"),
        ("methods.ewc.regularize.importance=path", "must be fisher, saliency or uniform"),
        ("methods.lora.protect={by: random, share: 0.1}", "peft goes with neither"),
        ("methods.replay.replay=-1", "replay must be 0 or more"),
        ("limit=3", "unknown key 'limit'"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named(changes: str, said: str, recipe: Path) -> None:
    assert load_experiment(recipe).recipe.name == "tiny"
    with pytest.raises(ConfigError, match=said):
        load_experiment(recipe, (changes,))


def test_a_general_task_that_has_the_name_of_a_figure_is_refused(recipe: Path) -> None:
    write_task(recipe.parent / "named", name="general", ood={})
    with pytest.raises(ConfigError, match="general: 'general' is the name of a figure: give the task another"):
        load_experiment(recipe, ("general=[meals/task.yaml, named/task.yaml]",))
    assert load_experiment(recipe, ("domains=[named/task.yaml]",))  # a domain stands by itself


def test_a_replay_that_would_train_on_nothing_is_refused_before_anything_is_trained(recipe: Path) -> None:
    general = "general=[{task: meals/task.yaml, replay: false}]"
    with pytest.raises(ConfigError, match=r"methods\.replay\.replay: every general task has `replay: false`"):
        load_experiment(recipe, (general,))
    assert load_experiment(recipe, (general, "methods={full: {}}"))


def test_a_replay_of_a_task_that_no_model_shares_is_refused_by_name(recipe: Path) -> None:
    write_task(recipe.parent / "own", name="own", ood={}, head={"kind": "classifier"})
    said = r"methods\.replay\.replay: 'own' \(classifier\) and 'meals' \(similarity\) cannot share a model"
    with pytest.raises(ConfigError, match=said):
        load_experiment(recipe, ("domains=[own/task.yaml]",))
    assert load_experiment(recipe, ("domains=[own/task.yaml]", "methods={full: {}}"))


def test_a_general_task_whose_layer_is_lost_while_a_domain_is_learned_is_refused(recipe: Path) -> None:
    write_task(recipe.parent / "own", name="own", ood={}, head={"kind": "classifier"})
    with pytest.raises(ConfigError, match=r"general: task .own.: the classification layer of a classifier"):
        load_experiment(recipe, ("general=[meals/task.yaml, {task: own/task.yaml, replay: false}]",))


def test_without_peft_an_adapter_is_refused_in_a_line(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    bench = bench_of(recipe, tmp_path)
    with pytest.raises(ConfigError, match=r"pip install peft"):
        bench.learn(bench.domains[0].task, bench.recipe.methods["lora"])
