from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from graft.errors import BudgetError, ConfigError, PatchMismatchError
from graft.localize.lines import count_lines, find_codes
from graft.localize.registry import LOCALIZATION_METHODS
from graft.patch.vertex_cover import largest_rank
from graft.refit.registry import SUPPORTS
from graft.refit.support import (
    SupportContext,
    choose_by_loss,
    is_chosen_by_loss,
    largest_gradients,
    localization_of,
    match_weights,
    select_largest,
)
from graft.specs.refit import RefitSpec
from graft.tensors.checkpoint import Checkpoint
from tests.refit.conftest import K


def test_the_support_holds_the_largest_gradients(context: SupportContext) -> None:
    mask, gradients = largest_gradients(context), context.gradients()
    assert len(mask) == K
    inside = [gradients[name][torch.tensor(mask[name])].abs() for name in mask]
    outside = [np.delete(gradient.abs().numpy(), mask[name]) for name, gradient in gradients.items()]
    assert min(map(torch.min, inside)) >= max(part.max() for part in outside if part.size)


def test_the_gradient_is_that_of_the_mean_loss_whatever_the_batches(
    context: SupportContext,
) -> None:
    name = "encoder.layer.0.attention.self.value.weight"
    (whole,) = torch.autograd.grad(
        context.objective(context.examples), context.weights[name].requires_grad_(), retain_graph=False
    )
    scale = float(whole.abs().max())
    for size in (7, 48):
        of_size = dataclasses.replace(context, config=RefitSpec(batch_size=size))
        found = of_size.gradients()[name]
        assert float((found - whole.flatten()).abs().max()) < 1e-4 * scale
        assert len(largest_gradients(context)) == K


def test_as_many_texts_as_asked_for_choose_evenly_spaced(context: SupportContext) -> None:
    few = dataclasses.replace(context, config=RefitSpec(support_texts=5))
    same = dataclasses.replace(context, examples=[context.examples[i] for i in (0, 9, 19, 28, 38)])
    name = "encoder.layer.0.attention.self.value.weight"
    assert len(context.examples) == 48
    assert torch.equal(few.gradients()[name], same.gradients()[name])
    assert not torch.allclose(few.gradients()[name], context.gradients()[name])


def test_ties_go_by_name_then_index_and_nan_is_never_taken(base: Path) -> None:
    checkpoint = Checkpoint.open(base)
    names = ["encoder.layer.0.attention.output.dense.bias", "encoder.layer.1.attention.output.dense.bias"]
    gradients = {name: torch.ones(32) for name in reversed(names)}
    gradients[names[0]][:3] = torch.nan
    gradients[names[1]][5] = -2
    mask = select_largest(gradients, checkpoint, 4)
    assert {name: mask[name].tolist() for name in mask} == {names[0]: [3, 4, 5], names[1]: [5]}


def test_more_entries_than_there_are_is_refused_before_the_costly_part(
    context: SupportContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SupportContext, "gradients", lambda _: pytest.fail("the gradients were taken"))
    n = sum(weight.numel() for weight in context.weights.values())
    with pytest.raises(BudgetError, match=rf"a budget of {n + 1:,} entries, but only {n:,} in scope"):
        choose_by_loss(dataclasses.replace(context, k=n + 1))


def test_every_method_of_localization_that_keeps_to_a_budget_is_a_support() -> None:
    assert list(SUPPORTS) == ["gradient", *LOCALIZATION_METHODS]
    for name in SUPPORTS:
        config = RefitSpec(support=name)
        assert is_chosen_by_loss(config) == (name == "gradient")
        if name in LOCALIZATION_METHODS and name not in ("paper", "mathneuro"):
            block = localization_of(config, 7)
            assert (block.method, block.budget, block.scope) == (name, 7, "layers")
    with pytest.raises(ConfigError, match="support 'paper' chooses its own number of entries"):
        localization_of(RefitSpec(support="paper"), 7)


def test_what_takes_no_gradient_is_refused_by_name(context: SupportContext) -> None:
    model = context.objective.head.model
    with pytest.raises(PatchMismatchError, match="'nowhere' is to be fitted, but the task's model does not have it"):
        match_weights(model, ["nowhere"])
    with pytest.raises(PatchMismatchError, match=r"'embeddings.position_ids' is a buffer"):
        match_weights(model, ["embeddings.position_ids"])


def test_a_support_of_whole_lines_holds_those_with_the_largest_gradients(context: SupportContext) -> None:
    of_columns = dataclasses.replace(context, config=RefitSpec(structure="columns", lines=3))
    mask, gradients = largest_gradients(of_columns), context.gradients()
    codes = find_codes(context.base, list(context.weights), "columns")
    assert count_lines(mask, codes) == 3
    sums = [
        float(total)
        for name, gradient in gradients.items()
        if len(context.base.spec(name).shape) == 2
        for total in gradient.abs().view(context.base.spec(name).shape).sum(0 if codes[name] == "columns" else 1)
    ]
    kept = sum(float(gradients[name].abs()[torch.tensor(mask[name])].sum()) for name in mask)
    assert kept == pytest.approx(sum(sorted(sums)[-3:]), rel=1e-5)


def test_a_support_keeps_to_a_rank(context: SupportContext) -> None:
    assert largest_rank(largest_gradients(context)) > 1
    mask = largest_gradients(dataclasses.replace(context, config=RefitSpec(max_rank=1)))
    assert (len(mask), largest_rank(mask)) == (K, 1)


def test_a_structure_goes_to_the_method_that_chooses_the_support() -> None:
    config = RefitSpec("attribution", structure="rows", lines=4)
    assert (localization_of(config, 9).lines, localization_of(config, 9).budget) == (4, None)
    assert localization_of(RefitSpec("magnitude", max_rank=2), 9).max_rank == 2
    for wrong in ({"rounds": 2, "max_rank": 1}, {"rounds": 2, "structure": "rows"}, {"lines": 2}):
        with pytest.raises(ValueError, match=r"rounds drop|lines goes"):
            RefitSpec(**wrong)  # type: ignore[arg-type]
