from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graft.errors import CheckpointError
from graft.refit.data import RefitData
from graft.refit.objective import Objective, divergences
from graft.refit.support import SupportContext
from graft.refit.teacher import make_teacher
from graft.specs.head import HeadSpec
from graft.tasks.examples import Example
from graft.tasks.head import open_head
from graft.tasks.task import Task
from tests.models import toy_spec, write_causal, write_choices

LOGITS = st.lists(st.tuples(st.floats(-30, 30, width=32), st.floats(-30, 30, width=32)), min_size=2, max_size=6)


@given(LOGITS, st.floats(-20, 20, width=32))
def test_the_divergence_is_not_negative_and_0_for_equal_distributions(
    pairs: list[tuple[float, float]], shift: float
) -> None:
    teacher, student = torch.tensor(pairs, dtype=torch.float64).T
    assert float(divergences(teacher, student)) >= -1e-12
    assert float(divergences(teacher, teacher)) == 0
    assert abs(float(divergences(teacher, teacher + shift))) < 1e-12  # logits of one distribution
    p, q = teacher.softmax(-1), student.softmax(-1)
    by_hand = sum(a * (math.log(a) - math.log(b)) for a, b in zip(p.tolist(), q.tolist(), strict=True))
    assert float(divergences(teacher, student)) == pytest.approx(by_hand, abs=1e-9)
    if float((p - q).abs().max()) > 1e-3:
        assert float(divergences(teacher, student)) > 1e-7  # Pinsker: at least 2 * max|p - q|^2


def test_a_choice_that_a_row_lacks_takes_no_part_and_no_gradient() -> None:
    teacher = torch.tensor([[1.0, 2.0, -torch.inf], [0.5, -0.5, 1.0]])
    student = torch.tensor([[0.3, 0.1, -torch.inf], [0.0, 0.0, 0.0]], requires_grad=True)
    found = divergences(teacher, student)
    assert found[0].item() == pytest.approx(divergences(teacher[:1, :2], student[:1, :2]).item())
    found.sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert student.grad[0, 2] == 0
    assert student.grad[0, 0] != 0


def test_the_gradient_is_that_of_finite_differences(context: SupportContext) -> None:
    objective, name = context.objective, "encoder.layer.1.output.dense.weight"
    gradient = context.gradients()[name]
    weight = context.weights[name].detach().view(-1)
    for index in gradient.abs().topk(3).indices.tolist():
        at = []
        for step in (1e-2, -1e-2):
            before = weight[index].clone()
            weight[index] += step
            with torch.no_grad():
                at.append(objective(context.examples).item())
            weight[index] = before
        assert (at[0] - at[1]) / 2e-2 == pytest.approx(gradient[index].item(), rel=0.05)


def test_labels_mix_both_losses(objective: Objective, data: RefitData) -> None:
    with torch.no_grad():
        kl = objective(data.train).item()
        nll = objective.head.loss(data.train).item()
        for share in (0.0, 0.25, 1.0):
            mixed = Objective(objective.head, objective.teacher, share)(data.train).item()
            assert mixed == pytest.approx((1 - share) * kl + share * nll, rel=1e-5)
    assert abs(kl - nll) > 0.01


def test_rows_of_other_numbers_of_choices_meet_their_recorded_outputs(base: Path, tuned: Path, tmp_path: Path) -> None:
    head = {"kind": "similarity", "template": "it was {}"}
    task = Task.load(write_choices(tmp_path / "choices", head=head, train={}))
    examples = task.training_texts()[:40]
    widths = {len(example.choices) for example in examples}
    assert len(widths) > 1
    objective = Objective(open_head(base, task.spec), make_teacher(open_head(tuned, task.spec), examples))
    with torch.no_grad():
        whole = objective(examples).item()
        alone = [objective([example]).item() for example in examples]  # each as wide as its own choices
    assert whole == pytest.approx(sum(alone) / len(alone), rel=1e-4)
    assert whole > 1e-3
    same = Objective(open_head(tuned, task.spec), objective.teacher)
    with torch.no_grad():
        assert abs(same(examples).item()) < 1e-5


def test_a_tuned_model_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    folder, spec = write_causal(tmp_path / "causal", steps=1), toy_spec(labels=(), head=HeadSpec("lm"))
    student, tuned = (open_head(folder, spec) for _ in range(2))
    texts = [Example(("the film was good",), 0)]
    assert Objective(student, make_teacher(tuned, texts))(texts).item() == pytest.approx(0, abs=1e-6)
    tuned.model.resize_token_embeddings(len(tuned.tokenizer) + 3, mean_resizing=False)
    with pytest.raises(CheckpointError, match="its tokenizer or vocabulary is another"):
        Objective(student, make_teacher(tuned, texts))(texts)
