"""Tasks that want the same of the weights are alike, and the gradients are those of a plain backward pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from graft.evaluate.task_similarity import compare_gradients
from graft.tasks.head import open_head
from graft.tasks.task import Task


def test_cosines_are_those_of_plain_gradients(base: Path, task: Task) -> None:
    rows = task.train_examples()
    halves = [rows[:40], rows[40:110]]  # more than one micro-batch each
    heads = [open_head(base, task.spec) for _ in halves]
    vectors = []
    for head, half in zip(heads, halves, strict=True):
        head.model.eval()
        head.loss(half).backward()  # type: ignore[no-untyped-call]
        grads = [weight.grad for weight in head.model.parameters() if weight.grad is not None]
        vectors.append(torch.cat([grad.flatten() for grad in grads]))
    expected = torch.nn.functional.cosine_similarity(*vectors, dim=0).item()
    assert abs(expected) < 0.999  # they are not the same
    found = compare_gradients(heads, halves, "all")
    assert found[0, 1] == pytest.approx(expected, abs=1e-4)
    assert found[0, 0] == pytest.approx(1)
    assert all(weight.grad is None for head in heads for weight in head.model.parameters())


@pytest.mark.parametrize("scope", ["layers", "all"])
def test_what_one_head_alone_has_counts_as_zeros_for_the_other(scope: str, base: Path, task: Task) -> None:
    rows = task.train_examples()[:24]
    classifier = Task.load(task.folder / "task.yaml", ("head={kind: classifier}",))
    heads = [open_head(base, task.spec), open_head(base, classifier.spec)]
    gradients = []
    for head in heads:
        head.model.eval()
        head.loss(rows).backward()  # type: ignore[no-untyped-call]
        named = {name.removeprefix("bert."): weight for name, weight in head.model.named_parameters()}
        held = {name: weight for name, weight in named.items() if scope == "all" or ".layer." in name}
        gradients.append({name: weight.grad for name, weight in held.items() if weight.grad is not None})
        head.model.zero_grad()
    common = gradients[0].keys() & gradients[1].keys()
    assert (len(gradients[1]) > len(common)) == (scope == "all")  # the classifier's own layer
    product = sum(float((gradients[0][name] * gradients[1][name]).sum()) for name in common)
    norms = [sum(float(gradient.square().sum()) for gradient in found.values()) ** 0.5 for found in gradients]
    expected = product / (norms[0] * norms[1])
    assert abs(expected) < 0.99
    for order in (heads, heads[::-1]):
        assert compare_gradients(order, [rows, rows], scope)[0, 1] == pytest.approx(expected, abs=1e-4)
