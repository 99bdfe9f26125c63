from __future__ import annotations

import dataclasses
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from graft.errors import BudgetError, ConfigError, DataError
from graft.evaluate.abilities import Ability, CalibrationAbility, RefusalAbility
from graft.evaluate.evaluation import evaluate_task
from graft.evaluate.registry import RESTORABLE, RestorableEntry
from graft.evaluate.rollback import RolledBack, roll_back, start_trial, trace_rollback
from graft.evaluate.rollback_curve import NothingRestored, RollbackCurve, RollbackPoint
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from graft.patch.live import apply_patch
from graft.specs.rollback import RollbackRefitSpec, RollbackSpec
from graft.specs.train import TrainSpec
from graft.tasks.examples import Example
from graft.tasks.head import open_head
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import same_bits
from graft.tensors.hashing import digest_of
from graft.tensors.pair import CheckpointPair
from graft.train.fine_tuning import train_task
from tests.models import FILMS, MEALS, MOODS, TEXTS, toy_rows, write_rows, write_yaml
from tests.shared_builds import build_once

QUICK = RollbackSpec(densities=(0.003, 0.03), tolerance=0.05, refine=0, batch_size=64)


def write_topics(folder: Path) -> Path:
    """What the base knows and tuning loses: films or meals."""
    folder.mkdir(parents=True)
    for seed, split in enumerate(("train", "validation", "test")):
        films, meals = toy_rows(24, seed, FILMS), toy_rows(24, 10 + seed, MEALS)
        rows = [row | {"label": label} for label, part in enumerate((films, meals)) for row in part]
        write_rows(folder / f"{split}.jsonl", rows)
    head = {"kind": "similarity", "texts": ["film actor scene", "soup bread salad"]}
    data = {split: f"{split}.jsonl" for split in ("train", "validation", "test")}
    return write_yaml(
        folder / "task.yaml", {"name": "topics", "data": data, "labels": ["films", "meals"], "head": head}
    )


@pytest.fixture(scope="session")
def forgetful(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: topics/task.yaml, and tuned/, which learned moods at a rate at which topics are lost."""

    def build(folder: Path) -> None:
        folder.mkdir()
        write_topics(folder / "topics")
        config = TrainSpec(optimizer="adamw", lr=1e-2, epochs=4, batch_size=16, scope="all", l1=0.0)
        train_task(shelf / "base", Task.load(shelf / "toy/task.yaml"), folder / "tuned", config=config)

    return build_once(tmp_path_factory, "forgetful", build)


@pytest.fixture
def topics(forgetful: Path) -> Task:
    return Task.load(forgetful / "topics/task.yaml")


@pytest.fixture(scope="module")
def found(shelf: Path, forgetful: Path) -> RolledBack:
    keep, lost = Task.load(shelf / "toy/task.yaml"), Task.load(forgetful / "topics/task.yaml")
    return roll_back(shelf / "base", forgetful / "tuned", keep, [lost], QUICK, whole_curve=True)


def validated(task: Task) -> Task:
    """The task with its validation examples as its test split."""
    return Task.load(task.folder / "task.yaml", (f"data.test={task.spec.data.validation}", "ood={}"))


def test_the_curve_is_that_of_the_patch_on_the_tuned_model(
    found: RolledBack, base: Path, forgetful: Path, task: Task, topics: Task
) -> None:
    curve, tuned = found.curve, forgetful / "tuned"
    assert curve.base["topics"] > curve.tuned["topics"] + 0.1  # there is something to bring back
    assert evaluate_task(base, validated(topics))["accuracy"] == pytest.approx(curve.base["topics"])
    assert evaluate_task(tuned, validated(task))["accuracy"] == pytest.approx(curve.keep_tuned)
    point = curve.chosen
    assert point is not None
    assert len(found.patch) == point.k
    with_patch = [evaluate_task(tuned, validated(item), patches=(found.patch,))["accuracy"] for item in (task, topics)]
    assert with_patch == pytest.approx([point.keep, point.restore["topics"]])
    lost = curve.base["topics"] - curve.tuned["topics"]
    assert point.share == pytest.approx((point.restore["topics"] - curve.tuned["topics"]) / lost)
    assert point.cost == pytest.approx(curve.keep_tuned - point.keep)


def test_much_comes_back_that_random_entries_do_not_bring(
    found: RolledBack, base: Path, forgetful: Path, task: Task, topics: Task
) -> None:
    best = max(point.share for point in found.curve.points)
    assert best > 0.4
    control = dataclasses.replace(QUICK, method="random")
    drawn = trace_rollback(base, forgetful / "tuned", task, [topics], control)
    assert max(point.share for point in drawn.points) < best - 0.2


def test_the_patch_holds_the_base_and_reverts_to_the_tuned_model(
    found: RolledBack, base: Path, forgetful: Path, task: Task, tmp_path: Path
) -> None:
    patch, pair = found.patch, CheckpointPair.open(base, forgetful / "tuned")
    for name in patch.mask:
        before, after = pair.read_at(name, torch.tensor(patch.mask[name]))
        assert same_bits(patch.values[name], before)
        assert not (before == after).any()
    model = open_head(forgetful / "tuned", task.spec).model
    originals = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with apply_patch(model, patch):
        assert any(not same_bits(tensor, originals[name]) for name, tensor in model.state_dict().items())
    assert all(same_bits(tensor, originals[name]) for name, tensor in model.state_dict().items())
    save_patch(patch, tmp_path / "back.safetensors")
    provenance = load_patch(tmp_path / "back.safetensors").provenance
    assert provenance.base.name == "tuned"
    assert {key: provenance.method[key] for key in ("method", "score", "keep", "restore", "k")} == {
        "method": "rollback", "score": "taylor", "keep": "moods", "restore": ["topics"], "k": len(patch),
    }  # fmt: skip
    assert provenance.metrics is not None
    assert provenance.metrics["rollback"]["restore"]["topics"]["n"] == 48


@pytest.mark.parametrize("method", ["taylor", "magnitude", "random"])
def test_a_budget_is_exact_by_every_method(method: str, base: Path, forgetful: Path, task: Task, topics: Task) -> None:
    config = RollbackSpec(scope="all", budget=37, method=method, points=1, batch_size=64)  # type: ignore[arg-type]
    assert len(roll_back(base, forgetful / "tuned", task, [topics], config).patch) == 37


def test_labels_and_whole_scores_choose_too(base: Path, forgetful: Path, task: Task, topics: Task) -> None:
    config = RollbackSpec(budget=300, loss="labels", class_debias=True, exact_scores=True, points=2, batch_size=64)
    assert roll_back(base, forgetful / "tuned", task, [topics], config).curve.points[0].share > 0


def test_refit_values_bring_back_what_was_lost(base: Path, forgetful: Path, task: Task, topics: Task) -> None:
    refit = RollbackSpec(budget=60, values="refit", refit=RollbackRefitSpec(epochs=6, lr=3e-2))
    found = roll_back(base, forgetful / "tuned", task, [topics], refit)
    point = found.curve.points[0]
    assert found.curve.base["topics"] > found.curve.tuned["topics"] + 0.1
    assert point.share > 0.4
    assert (found.curve.method, len(found.patch), point.k) == ("refit", 60, 60)
    provenance = found.patch.provenance
    assert (provenance.values, provenance.method["score"]) == ("refit", "refit")
    assert provenance.refit["teacher"] == digest_of(Checkpoint.open(base))
    assert provenance.refit["kept"]["epoch"] > 0
    tuned = forgetful / "tuned"
    measured = evaluate_task(tuned, validated(topics), patches=(found.patch,))["accuracy"]
    assert measured == pytest.approx(point.restore["topics"])


def test_a_trial_s_model_is_the_tuned_one_between_budgets(
    base: Path, forgetful: Path, task: Task, topics: Task
) -> None:
    config = RollbackSpec(values="refit", refit=RollbackRefitSpec(epochs=1), densities=(1e-3, 1e-2))
    trial = start_trial(base, forgetful / "tuned", task, [topics], config)
    before = {name: tensor.clone() for name, tensor in trial.head.model.state_dict().items()}
    for k in trial.budgets:
        with trial.values.written(k) as mask:
            assert len(mask) == k
        after = trial.head.model.state_dict()
        assert all(same_bits(before[name], after[name]) for name in before)


@pytest.mark.parametrize("method", ["taylor", "random", "magnitude"])
def test_scores_that_do_not_follow_the_graft_are_shared_by_all_budgets(
    method: str, base: Path, forgetful: Path, task: Task, topics: Task
) -> None:
    both = RollbackSpec(densities=(1e-3, 1e-2), method=method, exact_scores=True)  # type: ignore[arg-type]
    trial = start_trial(base, forgetful / "tuned", task, [topics], both)
    masks = {k: trial.rollback.choose(k, trial.values.path) for k in trial.budgets}  # type: ignore[attr-defined]
    small, large = masks.values()
    assert len(small | large) == len(large)
    alone = dataclasses.replace(both, densities=(1e-3,))
    assert roll_back(base, forgetful / "tuned", task, [topics], alone).patch.mask == small


@pytest.mark.parametrize("metric", ["nll", "ece"])
def test_calibration_comes_back(metric: str, base: Path, forgetful: Path, task: Task, topics: Task) -> None:
    config = RollbackSpec(metric, budget=200, batch_size=64)
    curve = roll_back(base, forgetful / "tuned", task, [topics], config).curve
    assert curve.tuned["topics"] > curve.base["topics"]
    assert curve.n == {"topics": 24}  # the other half scored
    assert curve.points[0].share > 0  # 200 entries of 20,577


@pytest.mark.parametrize("metric", ["nll", "auroc"])
def test_the_halves_are_alike_whatever_the_order_in_the_file(metric: str, tmp_path: Path) -> None:
    sides = [[row for row in toy_rows(39, 0) if row["label"] == label] for label in (0, 1)]
    outside = [{"text": f"the {thing} is it", "label": -1} for thing in (*FILMS, *MEALS)]
    alternating = [row for pair in zip(*sides, strict=False) for row in pair] + sides[0][19:] + outside
    draw = random.Random(0)

    def halves(rows: list[dict[str, Any]], seed: int = 0) -> list[list[Example]]:
        task = Task.of(train=rows, validation=rows, labels=MOODS, head={"kind": "similarity", "texts": list(TEXTS)},
                       name="moods", seed=seed)  # fmt: skip
        ability: Ability = RESTORABLE[metric].load()(task, metric)
        return [list(ability.scored), list(ability.measured)]

    found = halves(alternating)
    for half in found:
        counts = Counter(example.label for example in half)
        assert counts == {-1: 8} if metric == "auroc" else {*map(counts.get, (0, 1))} <= {9, 10}
    assert not {example.texts for example in found[0]} & {example.texts for example in found[1]}
    assert found == halves(draw.sample(alternating, len(alternating))) == halves(alternating[::-1])
    assert found != halves(alternating, seed=1)  # the positive control: it is a draw


def test_the_halves_are_those_of_the_labels_in_another_order(tmp_path: Path) -> None:
    def halves(labels: tuple[str, ...], texts: tuple[str, ...]) -> list[set[tuple[str, ...]]]:
        rows = [{**row, "label": MOODS[row["label"]]} for row in toy_rows(39, 0)]
        head = {"kind": "similarity", "texts": list(texts)}
        task = Task.of(train=rows, validation=rows, labels=labels, head=head, name="moods")
        ability = CalibrationAbility(task, "nll")
        return [{example.texts for example in half} for half in (ability.scored, ability.measured)]

    assert halves(tuple(MOODS), tuple(TEXTS)) == halves(tuple(MOODS[::-1]), tuple(TEXTS[::-1]))


def test_refusal_aims_at_even_probabilities(base: Path, task: Task) -> None:
    head = open_head(base, task.spec)
    ability = RefusalAbility(task, "auroc", by_outputs=False)
    assert {example.label for example in (*ability.scored, *ability.measured)} == {-1}
    reading = ability.read(head, 8)
    assert 0 <= reading.value <= 1
    assert torch.equal(ability.targets(reading), torch.full((len(ability.scored), 2), 0.5))
    aimed = ability.aim(head, reading)
    outputs = head.predict(ability.scored)
    assert aimed.loss(ability.scored).item() == pytest.approx(-float(outputs.log_softmax(-1).mean()), rel=1e-5)
    none = Task.load(task.folder / "task.yaml", ("ood={}",))
    with pytest.raises(DataError, match="rows with label -1"):
        RefusalAbility(none, "auroc")


def test_what_cannot_be_rolled_back_is_refused(base: Path, tuned: Path, task: Task, topics: Task) -> None:
    with pytest.raises(DataError, match=r"'moods' lost no accuracy in tuning"):
        roll_back(base, tuned, topics, [task], QUICK)
    with pytest.raises(ConfigError, match="one or more restore tasks"):
        roll_back(base, tuned, task, [], QUICK)
    with pytest.raises(BudgetError, match="equal in scope"):
        roll_back(base, base, task, [topics], QUICK)
    with pytest.raises(BudgetError, match="only"):
        roll_back(tuned, base, topics, [task], RollbackSpec(scope="all", budget=10**9))
    lm = Task.load(task.folder / "task.yaml", ("head={kind: lm}", "labels=[]", "ood={}"))
    with pytest.raises(ConfigError, match="refits no language model"):
        roll_back(base, tuned, lm, [task], RollbackSpec(values="refit"))
    classifier = Task.load(task.folder / "task.yaml", ("head={kind: classifier}",))
    with pytest.raises(ConfigError, match="a classifier head is a layer"):
        roll_back(base, tuned, classifier, [classifier], QUICK)


def test_a_new_row_is_a_metric() -> None:
    row = RestorableEntry(name="toy", help="a toy", target="graft.evaluate.abilities:AccuracyAbility")
    with RESTORABLE.extended(row):
        assert RollbackSpec("toy").restore_metric == "toy"
    with pytest.raises(ValueError, match="restore_metric must be one of accuracy"):
        RollbackSpec("toy")


def curve(*points: tuple[int, float, float], fixed: bool = False) -> RollbackCurve:
    """Points of (k, share, cost)."""
    made = [RollbackPoint(k, k / 1e6, 0.9 - cost, cost, {"old": 0.5 + 0.2 * share}, share) for k, share, cost in points]
    return RollbackCurve(
        "attribution", "accuracy", 0.5, 0.01, "new", 100, 0.5, 0.9, {"old": 0.7}, {"old": 0.5}, {"old": 100},
        tuple(made), fixed,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "k", "said"),
    [
        (
            curve((10, 0.3, 0.0), (100, 0.6, 0.01), (1000, 0.9, 0.0)),
            100,
            "60% of what was lost is back for 1.0 points of new, with 100 entries (0.0001 of all weights) put back.",
        ),
        (
            curve((10, 0.3, 0.0), (100, 0.6, 0.02), (1000, 0.2, 0.0)),
            10,
            "No number of entries brings 50% of what was lost back at 1 points of new or less. "
            "The most within that price: 30% of what was lost is back for 0.0 points of new, "
            "with 10 entries (1e-05 of all weights) put back.",
        ),
        (
            curve((100, 0.6, 0.02), fixed=True),
            100,
            "60% of what was lost is back for 2.0 points of new, with 100 entries (0.0001 of all weights) put back.",
        ),
    ],
)
def test_the_fewest_entries_that_reach_the_goal_are_taken(found: RollbackCurve, k: int, said: str) -> None:
    assert found.require().k == k
    assert found.sentence == said
    assert (found.to_json()["chosen"], found.to_json()["sentence"]) == (k, said)


def test_nothing_within_the_price_is_refused() -> None:
    found = curve((10, -0.1, 0.0), (100, 0.9, 0.2))
    with pytest.raises(NothingRestored, match=r"cannot be had: up to 100 entries nothing comes back at") as error:
        found.require()
    assert isinstance(error.value, BudgetError)
    assert error.value.curve == found
