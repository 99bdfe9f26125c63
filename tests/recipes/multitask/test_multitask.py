"""A suite of tiny tasks from start to end: every method runs, is measured alike, and says what was chosen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graft.errors import ConfigError, OutputError
from graft.patch.format.reading import load_patch
from graft.patch.mask import Mask
from graft.recipes import run as running
from graft.recipes import seed_run
from graft.recipes.multitask import sequences
from graft.recipes.multitask.experiment import MultitaskExperiment
from graft.recipes.multitask.fusions import fuse_tuned, train_mix
from graft.recipes.multitask.grafts import cut_grafts
from graft.recipes.multitask.seed_run import MultitaskRun
from graft.recipes.multitask.sequences import run_sequence
from graft.recipes.run import RunResult, load_experiment, run_recipe
from graft.recipes.seed_run import SeedContext, with_shots
from graft.specs.localize import LocalizeSpec
from graft.specs.multitask import BlendSpec, MixSpec, SequenceSpec
from graft.specs.reader import read_config, to_plain
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import take
from tests.checkpoints import changed_entries, count
from tests.models import write_task, write_yaml
from tests.recipes.toy_tasks import write_toy_tasks

PLAIN: dict[str, Any] = {"train": {"l1": 0.0}}
MULTITASK: dict[str, Any] = {
    "kind": "multitask",
    "name": "tiny",
    "tasks": ["films/task.yaml", "long/task.yaml"],
    "beside": ["meals/task.yaml"],
    "shots": 16,
    "train": {"epochs": 3, "lr": 0.2, "l1": 1e-4},
    "localize": {"method": "magnitude", "density": 0.03, "scope": "all"},
    "shared": {"method": "taylor", "density": 0.03, "scope": "all"},
    "sequences": {"sequential": PLAIN, "continual": {"graft": True}},
    "fusions": {
        "mean": {"fuse": {"method": "mean"}},
        "arithmetic": {"fuse": {"method": "task-arithmetic"}, "scales": [0.3, 1.0]},
        "cpi": {"fuse": {"method": "cpi", "core": 0.05, "threshold": 1.0}},
    },
    "mixes": {"joint": {}, "staged": {"start": "cpi", "shots": 4, "staged": True, "freeze": True}},
    "unions": {"union": {"density": 0.03}, "shared union": {"density": 0.03, "shared": True}},
    "evaluate": {"limit": 60},
    "seeds": [0, 1],
    "expect": {"tuned.accuracy": {"value": 0.8, "tolerance": 0.2}, "union.beauty": {"value": 1, "tolerance": 0}},
}
METHODS = [
    "base",
    "tuned",
    "graft",
    "joint",
    "staged",
    "sequential",
    "continual",
    "mean",
    "arithmetic",
    "cpi",
    "union",
    "shared union",
]


@pytest.fixture(scope="module")
def recipe(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe over the moods of films and the length of sentences, beside them the moods of meals."""
    folder = tmp_path_factory.mktemp("suite")
    write_toy_tasks(folder)
    return write_yaml(folder / "suite.yaml", MULTITASK | {"base": str(shelf / "base")})


@pytest.fixture(scope="module")
def finished(recipe: Path) -> Iterator[RunResult]:
    """The recipe, run once into out/ beside it; its state stays, as if it had been broken off at the very end."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(running, "drop_state", lambda _: None)
        yield run_recipe(recipe, recipe.parent / "out")


def bench_of(recipe: Path, folder: Path, *assignments: str) -> MultitaskRun:
    return experiment_of(recipe, *assignments).at(SeedContext(0, folder, folder / "patches"))


def experiment_of(recipe: Path, *assignments: str) -> MultitaskExperiment:
    experiment = load_experiment(recipe, assignments)
    assert isinstance(experiment, MultitaskExperiment)
    return experiment


def test_every_method_is_measured_on_every_task(finished: RunResult) -> None:
    results = finished.results
    assert list(results["summary"]) == METHODS
    for seed in results["seeds"]:
        assert list(seed["methods"]) == METHODS
        for figures in seed["methods"].values():
            assert list(figures) == ["films", "long"]
            assert all(row["n"] == 60 for row in figures.values())
        assert set(seed["seconds"]) == {*METHODS, "shared"}
        assert [[len(row) for row in rows] for rows in seed["stages"].values()] == [[1, 2]] * 2
    summary = {name: row["accuracy"]["mean"] for name, row in results["summary"].items()}
    assert summary["tuned"] > summary["base"] + 0.1
    assert summary["joint"] > summary["base"] + 0.05
    assert results["summary"]["tuned"]["gain_kept"]["mean"] == 1
    assert {"forgetting", "transfer"} <= set(results["summary"]["continual"])
    assert "forgetting" not in results["summary"]["mean"]
    assert finished.missed == ("union.beauty: no such figure",)
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_settings_come_from_validation_and_are_told(finished: RunResult) -> None:
    for seed in finished.results["seeds"]:
        found = seed["found"]
        assert found["arithmetic"]["scale"] in (0.3, 1.0)
        assert all("validation_accuracy" in found[name] for name in ("mean", "joint", "staged", "union"))
        assert found["cpi"]["clusters"] == [["films"], ["long"]]
        assert found["union"]["overlap"]["rule"] == "mean"
        assert found["union"]["overlap"]["differing"] > 0
        assert found["shared union"]["overlap"]["differing"] == 0  # the values of one model


def test_the_folder_holds_tables_plots_and_patches_but_no_checkpoints(finished: RunResult, recipe: Path) -> None:
    out = recipe.parent / "out"
    plots = [f"{name}.png" for name in ("overlap", "grafts", "shared", "stages")]
    assert {path.name for path in out.iterdir()} == {
        "state",
        "patches",
        "results.json",
        "table.md",
        *plots,
    }
    names = ("films", "long", "meals", "shared-films", "shared-long")
    patches = {f"{name}-seed-{seed}.safetensors" for name in names for seed in (0, 1)}
    assert [path.name for path in (out / "state" / "seed-0").iterdir()] == ["seed.json"]
    assert {path.name for path in (out / "patches").iterdir()} == patches
    n = load_patch(out / "patches" / "films-seed-0.safetensors").provenance.base.n_parameters
    assert all(len(load_patch(out / "patches" / name)) == int(0.03 * n + 0.5) for name in patches)
    assert (out / "table.md").read_text() == finished.table + "\n"
    for word in ("Test rows", "continual", "films, meals", "films, two seeds", "Spearman"):
        assert word in finished.table


def test_related_tasks_share_more_than_unrelated_ones(finished: RunResult) -> None:
    overlap = finished.results["overlap"]
    assert overlap["names"] == ["films", "long", "meals"]
    jaccard = np.array(overlap["jaccard"])
    assert (jaccard == jaccard.T).all()
    assert jaccard[0, 2] > jaccard[0, 1]  # the moods of films and of meals depend on the same words
    assert set(finished.results["agreement"]) == {"gradients", "texts"}
    assert len(finished.results["shared_overlap"]["names"]) == 2


def test_a_run_is_taken_up_and_a_finished_one_left_alone(finished: RunResult, recipe: Path) -> None:
    (recipe.parent / "out" / "results.json").rename(recipe.parent / "kept.json")
    again = run_recipe(recipe, recipe.parent / "out")  # both seeds are there
    assert again.results == finished.results
    with pytest.raises(OutputError, match="exists already"):
        run_recipe(recipe, recipe.parent / "out")


@pytest.mark.parametrize("density", [None, 0.01])
def test_continual_grafting_changes_nothing_outside_of_its_regions(
    density: float | None, recipe: Path, tmp_path: Path
) -> None:
    bench = bench_of(recipe, tmp_path)
    free = run_sequence(bench, "free", SequenceSpec())
    kept = run_sequence(bench, "kept", SequenceSpec(graft=True, density=density))
    n = int((density or 0.03) * Checkpoint.open(Path(bench.recipe.base)).n_parameters + 0.5)
    assert count(changed_entries(bench.recipe.base, free.last)) > 4 * n  # the control
    # the second region lies wholly outside of the first
    assert count(changed_entries(bench.recipe.base, kept.last)) == 2 * n


def test_a_graft_that_two_methods_ask_for_is_cut_once(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, densities, real = bench_of(recipe, tmp_path), [], seed_run.localize_skill

    def localize(base: Any, tuned: Any, task: Any, config: LocalizeSpec, **options: Any) -> Any:
        densities.append(config.density)
        return real(base, tuned, task, config, **options)

    monkeypatch.setattr(seed_run, "localize_skill", localize)
    grafts = cut_grafts(bench, bench.tasks)
    assert cut_grafts(bench, bench.tasks, 0.03) == grafts  # at the suite's own density
    assert densities == [0.03, 0.03]
    cut_grafts(bench, bench.tasks, 0.01)
    assert densities == [0.03, 0.03, 0.01, 0.01]


def test_replay_trains_on_what_was_seen_before(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, lessons = bench_of(recipe, tmp_path), []

    def train(_: MultitaskRun, base: Any, tasks: Any, *rest: Any, **options: Any) -> Any:
        lessons.append([(task.spec.name, task.spec.shots) for task in tasks])
        return base

    monkeypatch.setattr(sequences.MultitaskRun, "train", train)
    run_sequence(bench, "replay", SequenceSpec(replay=4))
    assert lessons == [[("films", 16)], [("long", 16), ("films", 4)]]
    seen, replayed = (with_shots(bench.tasks[0], n).train_examples() for n in (16, 4))
    assert len(replayed) == 8
    assert set(replayed) <= set(seen)


def test_frozen_cores_stay_and_others_move(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, real = bench_of(recipe, tmp_path), MultitaskRun.train
    fused = fuse_tuned(bench, "cpi", bench.recipe.fusions["cpi"])
    config = LocalizeSpec("magnitude", 0.05, scope="all")
    core = bench.localize(bench.recipe.base, bench.tuned["films"], bench.tasks[0], config).mask
    stages: list[tuple[Path, list[Mask], Path]] = []

    def train(bench: MultitaskRun, base: Any, tasks: Any, changes: Any, protect: list[Mask]) -> Path:
        stages.append((base, list(protect), real(bench, base, tasks, changes, protect)))
        return stages[-1][-1]

    monkeypatch.setattr(MultitaskRun, "train", train)
    for freeze in (False, True):
        train_mix(bench, MixSpec("cpi", 4, staged=True, freeze=freeze), fused)
    (_, _, first), (_, _, free), (_, nothing, _), (_, frozen, kept) = stages
    assert not nothing
    assert frozen == [core]
    before, moved, still = (Checkpoint.open(folder) for folder in (first, free, kept))
    for end, stays in ((moved, False), (still, True)):
        pairs = (
            (take(before.read(name), torch.tensor(core[name])), take(end.read(name), torch.tensor(core[name])))
            for name in core
        )
        assert all(torch.equal(*pair) for pair in pairs) is stays
    assert any(not torch.equal(before.read(name), still.read(name)) for name in core)


def test_the_best_scale_on_validation_is_kept(recipe: Path, tmp_path: Path) -> None:
    bench = bench_of(recipe, tmp_path)
    blend = read_config(BlendSpec, {"fuse": {"method": "task-arithmetic"}, "scales": [-1.0, 0.5]}, "blend")
    fused = fuse_tuned(bench, "arithmetic", blend)
    assert fused.facts["scale"] == 0.5
    assert bench.validate(bench.open(fused.path)) == fused.facts["validation_accuracy"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("tasks=[films/task.yaml]", "tasks must be two or more different files"),
        ("beside=[films/task.yaml]", "and beside others than these"),
        ("mixes.staged.start=other", "start 'other' is neither base nor a fusion"),
        ("mixes.staged.start=mean", "staged needs the start to be a fusion by cpi"),
        ("mixes.joint.freeze=true", "freeze needs staged"),
        ("sequences.mean={}", "two methods have one name"),
        ("sequences.sequential.train.rate=1", "unknown key 'rate'"),
        ("sequences.sequential.replay=-1", "replay must be 0 or more"),
        ("sequences.sequential.density=0.1", "density is that of grafts"),
        ("fusions.mean.fuse.method=luck", "must be one of mean, slerp"),
        ("unions.union.on_overlap=luck", "must be one of error, first"),
        ("seeds=[1, 1]", "seeds must be one or more different"),
        ("mixes={}", "shared needs a mix"),
        ("shared=null", "a union of shared grafts needs the block shared"),
        ("localise={}", "unknown key 'localise'"),
        ("localize.method=random", "random draws the same entries for every task"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named(changes: str, said: str, recipe: Path) -> None:
    assert load_experiment(recipe).recipe.name == "tiny"
    with pytest.raises(ConfigError, match=said):
        load_experiment(recipe, (changes,))


def test_tasks_that_no_model_shares_are_refused_before_anything_is_trained(recipe: Path) -> None:
    write_task(recipe.parent / "own", name="own", ood={}, head={"kind": "classifier"})
    tasks = "tasks=[films/task.yaml, own/task.yaml]"
    with pytest.raises(ConfigError, match=r"'films' \(similarity\) and 'own' \(classifier\) cannot share a model"):
        load_experiment(recipe, (tasks,))
    apart = ("mixes={}", "shared=null", "unions={}", "beside=[]")  # grafts and fusions would be of one model too
    with pytest.raises(ConfigError, match="cannot share a model"):
        load_experiment(recipe, (tasks, *apart))


def test_caps_lower_what_a_task_asks_for_and_never_raise_it(recipe: Path) -> None:
    films, _ = experiment_of(recipe, "shots=200", "max_length=9", "train.lr=1e-3").learned
    assert (films.spec.shots, films.spec.max_length, films.spec.train.lr) == (64, 9, 1e-3)
    assert to_plain(films.spec)["ood"] == {}
