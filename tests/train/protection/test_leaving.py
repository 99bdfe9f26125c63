"""Leaving protection restores and checks, however it is left, and looks at what the model holds then."""

from __future__ import annotations

import contextlib
import copy
import io
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import graft
from graft.errors import ProtectionError
from graft.patch.mask import Mask
from graft.tensors.dtypes import spec_of
from graft.train.protection.guard import How
from tests.checkpoints import small_llama
from tests.train.protection.loops import OPTIMIZERS, bits_of_weights, loss_of, make_mask, make_model, moved_at

WAYS: tuple[How, ...] = ("restore", "bits", "compact")


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, number: int = 0) -> None:
    optimizer.zero_grad()
    loss_of(model, number).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def adamw(model: torch.nn.Module, **more: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1, **more)


def mask_of(model: torch.nn.Module, name: str, indices: Any) -> Mask:
    return Mask.of({name: spec_of(dict(model.named_parameters())[name])}, {name: indices})


# a model whose first weight is replaced, in every way that people replace them


def assigned(model: Any) -> None:
    model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()}, assign=True)


def same_values(model: Any) -> None:
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)


def new_parameter(model: Any) -> None:
    model[0].weight = torch.nn.Parameter(model[0].weight.detach() + 1)


def tied_to_another(model: Any) -> None:
    model[0].weight = torch.nn.Parameter(model[2].weight.detach().repeat(4, 1)[:, :24].contiguous())


def deleted(model: Any) -> None:
    del model[0].weight


def module_swapped(model: Any) -> None:
    model[0] = torch.nn.Linear(24, 32, bias=False)


def reparametrized(model: Any) -> None:
    torch.nn.utils.parametrizations.weight_norm(model[0])


def overwritten_on_conversion(model: Any) -> None:
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        model.to(torch.float64)
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


REPLACED = [
    assigned, same_values, new_parameter, tied_to_another, deleted, module_swapped, reparametrized,
    overwritten_on_conversion,
]  # fmt: skip


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("replace", REPLACED)
def test_a_tensor_that_the_model_no_longer_holds_is_an_error_that_names_it(
    replace: Callable[[Any], None], how: How
) -> None:
    model = make_model()
    optimizer, mask = adamw(model), make_mask(model, 0.5)
    with graft.protect(model, optimizer, mask, how=how):  # the control
        step(model, optimizer)
    protection = graft.protect(model, optimizer, mask, how=how)
    step(model, optimizer)
    replace(model)
    with pytest.raises(ProtectionError, match=r"tensor '0\.weight': the model holds another in its place"), protection:
        pass
    graft.protect(model, torch.optim.SGD(model.parameters(), lr=0.1), []).release()  # nothing is left of it


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda llama: llama.resize_token_embeddings(20, mean_resizing=False), r"is torch\.float32 \[20, 8\] now"),
        (lambda llama: llama.set_input_embeddings(torch.nn.Embedding(16, 8)), "the model holds another"),
    ],
    ids=["resized", "untied"],
)
def test_embeddings_that_are_resized_or_untied(change: Callable[[Any], object], said: str) -> None:
    llama: Any = small_llama(tied=True)
    protection = graft.protect(llama, adamw(llama), mask_of(llama, "model.embed_tokens.weight", [1, 2]))
    protection.check()
    change(llama)
    with pytest.raises(ProtectionError, match=rf"'model\.embed_tokens\.weight': .*{said}"):
        protection.end()


def added(model: Any) -> None:
    with torch.no_grad():
        model[0].weight.add_(1)


def other_data(model: Any) -> None:
    model[0].weight.data = model[0].weight.detach() + 1


def set_to(model: Any) -> None:
    with torch.no_grad():
        model[0].weight.set_(model[0].weight.detach() + 1)


def loaded(model: Any) -> None:
    model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()})


def second_optimizer(model: Any) -> None:
    step(model, torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.5))


def functional(model: Any) -> None:
    weights = list(model.parameters())
    with torch.no_grad():
        torch._foreach_add_(weights, 1.0)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("write", [added, other_data, set_to, loaded, second_optimizer, functional])
def test_a_write_beside_the_optimizer_is_an_error_and_undone_where_the_values_were_kept(
    write: Callable[[Any], None], how: How
) -> None:
    model = make_model()
    optimizer, mask = adamw(model), make_mask(model, 0.9)
    before = bits_of_weights(model)
    protection = graft.protect(model, optimizer, mask, how=how)
    step(model, optimizer)
    write(model)
    assert moved_at(before, bits_of_weights(model), mask) > 0
    with pytest.raises(ProtectionError, match=r"tensor '0\.weight': .* do not hold their bits"), protection:
        pass
    assert (moved_at(before, bits_of_weights(model), mask) == 0) == (how != "compact")


@pytest.mark.parametrize("how", WAYS)
def test_a_tensor_that_was_cast_or_got_another_shape_is_named(how: How) -> None:
    def grown(model: Any) -> None:
        model[0].weight.data = torch.zeros(40, 24)

    for change, said in ((lambda model: model.half(), r"is torch\.float16 \[32, 24\] now"), (grown, r"\[40, 24\] now")):
        model = make_model()
        with (
            pytest.raises(ProtectionError, match=rf"'0\.weight': was torch\.float32 \[32, 24\] .* {said}"),
            graft.protect(model, adamw(model), make_mask(model, 0.5), how=how),
        ):
            change(model)


@contextlib.contextmanager
def broken_step(fault: Callable[[], None]) -> Iterator[None]:
    """Something happens right after AdamW wrote to the first weight."""
    write, calls = torch.Tensor.addcdiv_, []

    def addcdiv_(*given: Any, **more: Any) -> Any:
        result = write(*given, **more)
        calls.append(1)
        if len(calls) == 1:
            fault()
        return result

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.Tensor, "addcdiv_", addcdiv_)
        yield


def ctrl_c() -> None:
    raise KeyboardInterrupt


def sigint() -> None:
    signal.raise_signal(signal.SIGINT)


def fail() -> None:
    raise RuntimeError("out of memory")


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("fault", [ctrl_c, sigint, fail])
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("hooks_alone", [True, False])
def test_a_step_that_is_broken_off_leaves_the_core_as_it_was(
    how: How, fault: Callable[[], None], inside: bool, hooks_alone: bool
) -> None:
    def train(mask: Mask | None, model: torch.nn.Module) -> None:
        optimizer = adamw(model, foreach=False)
        protection = contextlib.nullcontext() if mask is None else graft.protect(model, optimizer, mask, how=how)
        if hooks_alone:  # as where somebody has taken the step before it was protected
            vars(optimizer).pop("step", None)
        with contextlib.suppress(KeyboardInterrupt, RuntimeError), protection:
            step(model, optimizer)
            with contextlib.suppress(*([KeyboardInterrupt, RuntimeError] if inside else [])), broken_step(fault):
                step(model, optimizer, 1)
                raise AssertionError("not broken off")
            if mask is not None and not hooks_alone:
                assert moved_at(before, bits_of_weights(model), mask) == 0  # at once

    model, free = make_model(), make_model()
    before, mask = bits_of_weights(model), make_mask(model, 0.5)
    train(None, free)
    assert moved_at(before, bits_of_weights(free), mask) > 0.9 * len(mask)  # the control
    train(mask, model)
    after = bits_of_weights(model)
    assert moved_at(before, after, mask) == 0
    assert moved_at(before, after, mask.complement(mask.specs)) > 0


def test_what_else_moved_is_noted_on_the_exception_that_leaves() -> None:
    model = make_model()
    before, mask = bits_of_weights(model), make_mask(model, 0.5)
    with pytest.raises(ZeroDivisionError) as caught, graft.protect(model, adamw(model), mask, how="restore"):
        1 / int(added(model) is not None)
    assert "tensor '0.weight': " in caught.value.__notes__[0]
    assert moved_at(before, bits_of_weights(model), mask) == 0


@pytest.mark.parametrize("at", range(1, 5))
def test_ctrl_c_while_values_are_put_back_waits_until_they_are(at: int) -> None:
    model = make_model()
    before, mask = bits_of_weights(model), make_mask(model, 0.5)
    optimizer = adamw(model)
    write, calls = torch.Tensor.index_copy_, []

    def index_copy_(*given: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return write(*given, **more)

    def train() -> None:
        with graft.protect(model, optimizer, mask, how="restore"):
            step(model, optimizer)  # two writes; two more on leaving

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.Tensor, "index_copy_", index_copy_)
        with pytest.raises(KeyboardInterrupt):
            train()
    assert moved_at(before, bits_of_weights(model), mask) == 0
    graft.protect(model, optimizer, mask).release()


def test_leaving_twice_entering_again_and_an_empty_core() -> None:
    model = make_model()
    optimizer = adamw(model)
    protection = graft.protect(model, optimizer, make_mask(model, 0.5))
    with protection:
        step(model, optimizer)
    later = graft.protect(model, optimizer, make_mask(model, 0.1))
    protection.end()
    protection.release()
    protection.__exit__(None, None, None)
    with pytest.raises(ProtectionError, match="under protection already"):  # the later one goes on
        graft.protect(model, optimizer, make_mask(model, 0.1))
    later.end()
    with pytest.raises(ProtectionError, match="was released: call `protect` again"), protection:
        pass
    before = bits_of_weights(model)
    with graft.protect(model, optimizer, []) as empty:
        assert empty.k == 0
        step(model, optimizer)
    whole = Mask.of({name: spec_of(w) for name, w in model.named_parameters()},
                    {name: np.arange(w.numel()) for name, w in model.named_parameters()})  # fmt: skip
    assert moved_at(before, bits_of_weights(model), whole) > 0


def test_two_optimizers_each_with_its_part_or_both_with_all() -> None:
    for shared in (False, True):
        model = make_model()
        weights = list(model.parameters())
        made = [torch.optim.AdamW(weights if shared else [weight], lr=0.1) for weight in weights]
        before, mask = bits_of_weights(model), make_mask(model, 0.5)
        with graft.protect(model, made[0], mask, how="restore"), graft.protect(model, made[1], mask, how="restore"):
            for number in range(4):
                step(model, made[number % 2], number)
        assert moved_at(before, bits_of_weights(model), mask) == 0
        assert moved_at(before, bits_of_weights(model), mask.complement(mask.specs)) > 0


def test_a_weight_that_a_later_group_brings_is_seen_at_the_end() -> None:
    model = make_model()
    first, last = model.parameters()
    optimizer = torch.optim.SGD([first], lr=0.5, weight_decay=0.5)
    protection = graft.protect(model, optimizer, make_mask(model, 0.5))
    step(model, optimizer)
    protection.check()
    optimizer.add_param_group({"params": [last]})
    step(model, optimizer)
    with pytest.raises(ProtectionError, match=r"'2\.weight'"):
        protection.end()


@pytest.mark.parametrize("how", WAYS)
def test_schedules_made_before_and_after_averages_and_skipped_steps(how: How) -> None:
    model = make_model()
    optimizer, mask = adamw(model), make_mask(model, 0.5)
    before = bits_of_weights(model)
    made = vars(optimizer).get("step")
    schedules: list[Any] = [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]
    average = torch.optim.swa_utils.AveragedModel(model)
    with graft.protect(model, optimizer, mask, how=how):
        schedules.append(torch.optim.lr_scheduler.StepLR(optimizer, 1))
        for number in range(3):
            with torch.enable_grad():
                loss_of(model, number).backward()  # type: ignore[no-untyped-call]
            if number != 1:
                with torch.no_grad():
                    optimizer.step()
            for schedule in schedules:
                schedule.step()
            average.update_parameters(model)
            copy.deepcopy(model)
    assert made is None
    assert moved_at(before, bits_of_weights(model), mask) == 0
    assert moved_at(before, bits_of_weights(average.module), mask) == 0
    step(model, optimizer)  # free again
    assert moved_at(before, bits_of_weights(model), mask) > 0


def state_of(mask: Mask | None, how: How, make: str = "adamw") -> Any:
    model = make_model()
    optimizer = OPTIMIZERS[make](model.parameters())
    protection = None if mask is None else graft.protect(model, optimizer, mask, how=how)
    step(model, optimizer)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    if protection is not None:
        protection.end()
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("before_protect", [True, False])
@pytest.mark.parametrize("how", WAYS)
def test_a_state_that_was_saved_under_another_mask_is_refused(how: How, before_protect: bool) -> None:
    masks = [make_mask(make_model(), 0.9, seed) for seed in (0, 1)]  # of the same sizes
    assert {name: len(masks[0][name]) for name in masks[0]} == {name: len(masks[1][name]) for name in masks[1]}

    def load(state: Any, how: How = how) -> None:
        model = make_model()
        optimizer = adamw(model)
        if before_protect:
            optimizer.load_state_dict(copy.deepcopy(state))
        with graft.protect(model, optimizer, masks[0], how=how):
            if not before_protect:
                optimizer.load_state_dict(copy.deepcopy(state))
            step(model, optimizer, 1)
        assert len(optimizer.param_groups[0]) == len(adamw(make_model()).param_groups[0])  # no mark stays

    load(state_of(masks[0], how))
    load(state_of(None, how))
    with pytest.raises(ProtectionError, match="was saved under another protection"):
        load(state_of(masks[1], how))
    if how == "compact":
        load(state_of(masks[0], "restore"))  # whole moments are taken up
        state = state_of(masks[0], how)
        with pytest.raises(ProtectionError, match="was saved under another protection"):
            load(state, "restore")
        del state["param_groups"][0]["graft_protection"]
        with pytest.raises(ProtectionError, match=r"'0\.weight': the optimizer's state has .* and does not say for"):
            load(state)
