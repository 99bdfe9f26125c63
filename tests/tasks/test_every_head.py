"""Each kind of head through a skill's whole way: tuned, localized, grafted, measured, taken off again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from graft.evaluate.calibration import negative_log_likelihood
from graft.evaluate.correctness import accuracy
from graft.evaluate.evaluation import evaluate_task, predict_task
from graft.localize.localization import localize_skill
from graft.patch.live import apply_patch
from graft.specs.localize import LocalizeSpec
from graft.tasks.head import Head, open_head
from graft.tasks.sharing import share_model
from graft.tasks.task import Task
from graft.train.fine_tuning import train_task
from tests.chat_models import chat_rows, write_answers
from tests.checkpoints import bits_of
from tests.models import MEALS, VERBALIZER, toy_rows, write_choices, write_rows, write_task

TRAIN: dict[str, Any] = {"lr": 0.3, "epochs": 5, "batch_size": 8, "scope": "layers"}


def write_texts(folder: Path, **changes: Any) -> Path:
    """Sentences about meals alone, without labels; out of distribution those about films."""
    path = write_task(folder, head={"kind": "lm"}, labels=[], ood={"films": "films.jsonl"}, **changes)
    for seed, split in enumerate(("train", "validation", "test")):
        write_rows(folder / f"{split}.jsonl", [{"text": row["text"]} for row in toy_rows(96, seed, MEALS)])
    write_rows(folder / "films.jsonl", [{"text": row["text"]} for row in toy_rows(24, 9)])
    return path


CASES = {
    "masked verbalizer": ("masked", lambda folder: write_task(folder, head=VERBALIZER, train=TRAIN)),
    "causal verbalizer": ("causal", lambda folder: write_task(folder, head=VERBALIZER, train=TRAIN)),
    "choice": ("causal", lambda folder: write_choices(folder, train=TRAIN)),
    "lm": ("causal", lambda folder: write_texts(folder, train=TRAIN)),
    "completion": ("chatting", lambda folder: write_answers(folder, train=TRAIN)),
    "completion in a chat": (
        "chatting",
        lambda folder: write_answers(folder, chat_rows, messages="messages", train=TRAIN),
    ),
    "similarity with choices": (
        "base",
        lambda folder: write_choices(folder, head={"kind": "similarity"}, train=TRAIN | {"lr": 0.1, "scope": "all"}),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_skill_is_tuned_localized_grafted_and_taken_off(
    case: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    fixture, write = CASES[case]
    base, task = request.getfixturevalue(fixture), Task.load(write(tmp_path / "task"))
    tuned = train_task(base, task, tmp_path / "tuned").path
    head = open_head(base, task.spec)
    before, after = figures_of(head, task), figures_of(open_head(tuned, task.spec), task)
    assert after["nll"] < before["nll"] - 0.03
    # the words that come in texts are drawn at random, and a chat is new to the base
    assert after["accuracy"] > before["accuracy"] or case in ("lm", "completion in a chat")
    bits, k = bits_of(head.model), sum(weight.numel() for weight in head.model.parameters()) // 20
    for method in ("magnitude", "attribution"):
        patch = localize_skill(base, tuned, task, LocalizeSpec(method, budget=k, points=2))  # type: ignore[arg-type]
        assert len(patch) == k
        assert patch.provenance.task == task.describe()
        with apply_patch(head.model, patch):
            assert bits_of(head.model) != bits
            grafted = figures_of(head, task)
        assert bits_of(head.model) == bits
    assert grafted["nll"] < before["nll"]
    report = evaluate_task(base, task, patches=(patch,))
    assert report["nll"] == pytest.approx(grafted["nll"])
    assert set(report.ood) == {name for name in task.spec.ood if name != "novel"}  # whose rows have no label


@pytest.mark.parametrize("case", CASES)
def test_two_tasks_share_a_model(case: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    fixture, write = CASES[case]
    task = Task.load(write(tmp_path / "task"))
    head = open_head(request.getfixturevalue(fixture), task.spec)
    other = share_model(head, dataclasses.replace(task.spec, name="other"))
    assert (other.model, other.task.name) == (head.model, "other")
    examples = task.validation_examples()[:3]
    with head.evaluating():
        assert float(other.loss(examples)) == float(head.loss(examples))


def figures_of(head: Head, task: Task) -> dict[str, float]:
    outcomes = predict_task(head, task).test.outcomes()
    return {"nll": negative_log_likelihood(outcomes), "accuracy": accuracy(outcomes)}


def test_tied_embeddings_are_patched_once(causal: Path, tmp_path: Path) -> None:
    task = Task.load(write_texts(tmp_path / "task", train=TRAIN | {"scope": "all", "epochs": 1}))
    tuned = train_task(causal, task, tmp_path / "tuned").path
    patch = localize_skill(causal, tuned, task, LocalizeSpec(scope="embeddings", budget=500, points=1))
    assert list(patch.mask) == ["model.embed_tokens.weight"]
    head = open_head(causal, task.spec)
    before = bits_of(head.model)
    with apply_patch(head.model, patch):
        assert head.model.lm_head.weight is head.model.model.embed_tokens.weight
        assert bits_of(head.model)["lm_head.weight"] != before["lm_head.weight"]
    assert bits_of(head.model) == before
