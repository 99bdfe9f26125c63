"""A skill of answering by what has ways of its own with tokens: learned masks, refits, curves, batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from graft.evaluate.comparison import evaluate_against
from graft.evaluate.curve import measure_curve
from graft.evaluate.kept_gain import kept_by_refit
from graft.localize.localization import localize_skill
from graft.memory.localize import plan_localization
from graft.patch.live import apply_patch
from graft.refit.data import task_of
from graft.refit.refit import refit_skill
from graft.scores.gradients import DenseSum, sum_mean_gradients
from graft.specs.importance import ImportanceSpec
from graft.specs.localize import LearnSpec, LocalizeSpec, PaperSpec
from graft.specs.refit import RefitSpec
from graft.tasks.head import open_head
from graft.tasks.task import Task
from graft.train.distribution import SharedLoss
from graft.train.fine_tuning import train_task
from graft.train.importance.measuring import measure_importance
from graft.train.master_weights import MasterWeights
from tests.chat_models import chat_rows, write_answers

LEARN = LearnSpec(epochs=1, batch_size=32, multiple=3)


@pytest.fixture(scope="module", params=["prompts", "chats"])
def skill(request: pytest.FixtureRequest, chatting: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Task, base and tuned model."""
    folder = tmp_path_factory.mktemp("answers")
    chats: dict[str, Any] = {"make": chat_rows, "messages": "messages"}
    task = Task.load(write_answers(folder / "task", **(chats if request.param == "chats" else {})))
    return task, chatting, train_task(chatting, task, folder / "tuned").path


@pytest.mark.parametrize("method", ["learned", "attribution", "taylor", "fisher", "random", "paper"])
def test_every_method_finds_its_entries(skill: Any, method: str) -> None:
    task, base, tuned = skill
    # the published method sets no budget
    config = LocalizeSpec(method, budget=200, points=2, learn=LEARN, paper=PaperSpec(steps=2))
    patch = localize_skill(base, tuned, task, config)
    assert len(patch) == 200 or method == "paper"
    assert patch.provenance.task == task.describe()


def test_a_graft_is_compared_with_base_and_tuned_and_its_values_are_refit(skill: Any) -> None:
    task, base, tuned = skill
    cut = localize_skill(base, tuned, task, LocalizeSpec("attribution", budget=400, points=2))
    refit = refit_skill(base, tuned, task, RefitSpec(budget=400, epochs=2, lr=0.02), support=cut.mask)
    reports = [evaluate_against(base, tuned, task, patches=(patch,)) for patch in (cut, refit)]
    of_base, of_tuned = (evaluate_against(model, None, task) for model in (base, tuned))
    assert of_tuned["nll"] < reports[1]["nll"] < reports[0]["nll"] < of_base["nll"]
    assert of_tuned["accuracy"] >= of_base["accuracy"]
    assert reports[1].recovered_gain is not None
    assert 0 <= (reports[1].agreement or 0) <= 1
    assert set(of_base.ood) == {"other"}
    measured = refit.provenance.refit["kept"]["measured"]
    head, validation = open_head(base, task.spec), task.validation_examples()
    accuracy = {"base": head.accuracy(validation), "tuned": open_head(tuned, task.spec).accuracy(validation)}
    with apply_patch(head.model, refit), head.evaluating():
        assert measured["nll"] == pytest.approx(float(head.loss(validation)), rel=1e-4)
        accuracy["graft"] = head.accuracy(validation)
    kept = kept_by_refit(refit)
    assert kept is not None
    assert (kept.base, kept.tuned, kept.graft, kept.n) == (*accuracy.values(), len(validation))
    assert task.spec.messages or accuracy["base"] < accuracy["tuned"]  # the control
    whole = refit.provenance.refit["tuned"]
    assert (whole["kl"], whole["nll"] < measured["nll"]) == (0, True)


def test_a_patch_tells_the_task_that_its_texts_are_read_by(skill: Any) -> None:
    task, base, tuned = skill
    patch = localize_skill(base, tuned, task, LocalizeSpec("magnitude", budget=10))
    again = task_of(patch.provenance.task, task.folder / "train.jsonl")
    assert again.training_texts() == task.training_texts()
    assert again.spec.head == task.spec.head or task.spec.messages is None  # a default template is written out


def test_curves_plans_and_importance_take_it(skill: Any) -> None:
    task, base, tuned = skill
    curve = measure_curve(base, tuned, task, LocalizeSpec("magnitude"), densities=(0.01, 1.0))
    head = open_head(tuned, task.spec)
    assert curve.tuned == head.accuracy(task.validation_examples())
    assert plan_localization(base, task, LocalizeSpec("attribution", budget=10)).total("host") > 0
    assert len(measure_importance(base, task, ImportanceSpec("fisher")).keep(0.01).mask)


def test_gradients_and_steps_do_not_depend_on_how_a_batch_is_parted(skill: Any) -> None:
    task, base, _ = skill
    head, examples = open_head(base, task.spec), task.train_examples()[:12]
    weights = {name: weight for name, weight in head.model.named_parameters() if "mlp" in name}
    sums = []
    for size in (1, 5, 12):
        sink = DenseSum(weights)
        sum_mean_gradients(head, weights, sink, examples, size)
        sums.append(torch.cat(list(sink.sums.values())))
    for other in sums[1:]:
        torch.testing.assert_close(other, sums[0], rtol=1e-4, atol=1e-6)
    for parameter in head.model.parameters():
        parameter.requires_grad_(True)
    SharedLoss(head, MasterWeights(head.model)).backward(head, examples)
    whole = torch.cat([weight.grad.flatten() for weight in weights.values()])
    torch.testing.assert_close(whole, sums[0], rtol=1e-4, atol=1e-6)
