"""Taking a graft off: never over what it did not write, never by half, whatever breaks in."""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import PatchMismatchError, RevertError
from graft.patch.grafted import Grafted
from graft.patch.in_force import Layer
from graft.patch.live import apply_patch, prepare_patch
from tests.checkpoints import bits_of, make_patch, model_of

N = 12


def count_in_force() -> int:
    """Count the grafts on models of this process, also those whose handle is gone."""
    return sum(thing.in_force for thing in gc.get_objects() if type(thing) is Layer)


def fresh() -> Any:
    tensors = {"a": torch.arange(float(N)), "m.b": torch.arange(float(N)).double(), "n": torch.arange(N)}
    return model_of({name: tensor.clone() for name, tensor in tensors.items()})


def patch_for(model: torch.nn.Module, changes: dict[str, dict[int, float]], **more: Any) -> Any:
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    return make_patch({name: tensor.detach() for name, tensor in tensors.items()}, changes, **more)


CHANGES: dict[str, dict[int, float]] = {"a": {1: 90.0, 5: 91.0}, "m.b": {2: 92.0}, "n": {3: 93}}


def trained(model: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.a.square().sum().backward()
    optimizer.step()


def written(model: Any) -> bool:
    with torch.no_grad():
        model.m.b.add_(1)
    return False


def sign_flipped(model: Any) -> None:
    model.a.data[1] = -model.a.data[1]


def loaded(model: Any) -> None:
    model.load_state_dict(fresh().state_dict())


def moved_and_written(model: Any) -> None:
    model.a.data = model.a.data.clone() + 1


def dense_written(model: Any) -> None:
    model.n.fill_(4)


@pytest.mark.parametrize("change", [trained, written, sign_flipped, loaded, moved_and_written, dense_written])
def test_what_changed_beneath_is_refused_wholly_and_written_over_where_asked(change: Callable[[Any], object]) -> None:
    model = fresh()
    before = bits_of(model)
    patch = patch_for(model, CHANGES)
    with apply_patch(model, patch):
        assert bits_of(model) != before  # the control
    assert bits_of(model) == before
    grafted = apply_patch(model, patch)
    change(model)
    between = bits_of(model)
    with pytest.raises(RevertError, match=r"tensor '(a|m\.b|n)' does not hold the graft's values any more"):
        grafted.revert()
    assert bits_of(model) == between
    grafted.revert(overwrite=True)
    after = bits_of(model)
    for name, entries in CHANGES.items():
        size = len(before[name]) // N
        for i in entries:
            assert after[name][i * size : (i + 1) * size] == before[name][i * size : (i + 1) * size]
    with pytest.raises(RevertError, match="already"):
        grafted.revert(overwrite=True)


def test_whole_tensors_too_and_what_is_beside_the_graft_may_change() -> None:
    model = fresh()
    grafted = apply_patch(model, patch_for(model, {"a": {1: 9.0}}, dense={"n": torch.full((N,), 7)}))
    with torch.no_grad():
        model.a[0] = 5
    model.n[0] = 6
    with pytest.raises(RevertError, match="tensor 'n' does not hold"):
        grafted.revert()
    model.n[0] = 7
    grafted.revert()
    assert model.a.tolist()[:2] == [5, 1]
    assert model.n.tolist() == list(range(N))


def test_on_leaving_the_block_too_and_what_went_wrong_first_is_what_is_heard_of() -> None:
    model = fresh()
    with pytest.raises(RevertError, match="does not hold"), apply_patch(model, patch_for(model, CHANGES)) as grafted:
        written(model)
    grafted.revert(overwrite=True)
    assert model.a.tolist() == list(range(N))
    with pytest.raises(ZeroDivisionError) as caught, apply_patch(model, patch_for(model, CHANGES)):
        1 / int(written(model))
    assert "the graft is still on the model: tensor 'm.b'" in caught.value.__notes__[0]


@contextlib.contextmanager
def breaking(at: int, fault: Callable[[], object]) -> Iterator[list[int]]:
    """Make something happen at the n-th single write from now on."""
    write, calls = torch.Tensor.index_copy_, []

    def index_copy_(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            fault()
        return write(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.Tensor, "index_copy_", index_copy_)
        yield calls


def ctrl_c() -> None:
    raise KeyboardInterrupt


def fail() -> None:
    raise RuntimeError("out of memory")


def sigint() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("fault", [ctrl_c, sigint, fail])
@pytest.mark.parametrize("at", range(1, 9))
@pytest.mark.parametrize("fitted", [False, True])
def test_an_interrupt_at_any_write_leaves_the_model_wholly_grafted_or_wholly_not(
    fault: Callable[[], None], at: int, fitted: bool
) -> None:
    model = fresh()
    before = bits_of(model)
    patch = patch_for(model, CHANGES)
    with apply_patch(model, patch):
        after = bits_of(model)
    fit = prepare_patch(model, patch)
    caught: list[BaseException] = []
    try:
        with breaking(at, fault) as calls, fit.apply() if fitted else apply_patch(model, patch):
            assert bits_of(model) == after
    except (KeyboardInterrupt, RuntimeError) as error:
        caught.append(error)
    assert bool(caught) == (at <= 6)
    assert bits_of(model) == before
    assert len(calls) >= 3
    fit.apply().revert()  # nothing is left in force
    assert bits_of(model) == before


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_revert_that_fails_leaves_the_graft_in_force_and_can_be_asked_for_again(at: int) -> None:
    model = fresh()
    before = bits_of(model)
    grafted = apply_patch(model, patch_for(model, CHANGES))
    after = bits_of(model)
    with breaking(at, fail), pytest.raises(RuntimeError, match="out of memory"):
        grafted.revert()
    assert bits_of(model) == after
    grafted.revert()
    assert bits_of(model) == before


def test_a_real_signal_at_any_moment_finds_the_model_whole() -> None:
    model = fresh()
    before = bits_of(model)
    fit = prepare_patch(model, patch_for(model, CHANGES))
    with fit.apply():
        after = bits_of(model)
    for moment in range(30):
        timer = threading.Timer(2e-5 * moment, signal.raise_signal, [signal.SIGINT])
        try:
            timer.start()
            while timer.is_alive():
                with fit.apply():
                    assert bits_of(model) == after
                assert bits_of(model) == before
            timer.join()
        except KeyboardInterrupt:
            pass
        if bits_of(model) != before:  # between a graft and its block: wholly on, and its handle gone
            assert bits_of(model) == after
            loaded(model)
        timer.join()
    assert count_in_force() == 0


def test_a_handle_that_was_entered_and_lost_on_the_threshold_takes_itself_off() -> None:
    model = fresh()
    before = bits_of(model)
    apply_patch(model, patch_for(model, CHANGES)).__enter__()  # as where Ctrl-C comes at the first step of `__exit__`
    assert bits_of(model) == before


class Other(Exception):
    pass


def test_a_graft_that_was_put_on_while_ctrl_c_came_is_taken_off_again_and_other_handlers_go_on() -> None:
    model = fresh()
    before = bits_of(model)
    with breaking(1, sigint), pytest.raises(KeyboardInterrupt):
        apply_patch(model, patch_for(model, CHANGES))
    assert bits_of(model) == before
    heard: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        with breaking(1, sigint):
            grafted = apply_patch(model, patch_for(model, CHANGES))
    finally:
        signal.signal(signal.SIGINT, handler)
    assert heard == [signal.SIGINT]
    assert bits_of(model) != before
    grafted.revert()
    assert bits_of(model) == before


def test_threads_with_models_of_their_own_and_with_one_model() -> None:
    shared, errors = fresh(), []
    before = bits_of(shared)

    def work(number: int) -> None:
        try:
            own = fresh()
            for model, changes in ((own, CHANGES), (shared, {"a": {number: 50.0 + number}})) * 40:
                with apply_patch(model, patch_for(fresh(), changes)):
                    assert model.a[min(changes["a"])] in (90, 50 + number)
                assert model.a[min(changes["a"])] == min(changes["a"])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert bits_of(shared) == before


def test_a_grafted_model_is_copied_and_pickled_as_it_is_and_copies_are_models_of_their_own() -> None:
    model = fresh()
    patch = patch_for(model, CHANGES)
    with apply_patch(model, patch):
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        for copied in copies:
            assert bits_of(copied) == bits_of(model)
            with pytest.raises(PatchMismatchError, match="not the base's"):
                apply_patch(copied, patch)
    assert bits_of(model) != bits_of(copies[0])


def test_what_is_left_on_for_good_costs_nothing_once_nothing_lies_beneath() -> None:
    model = fresh()
    for i in range(3):
        apply_patch(model, patch_for(model, {"a": {i: 70.0 + i}}))
    assert count_in_force() == 0
    first = apply_patch(model, patch_for(model, {"a": {5: 1.0}}))
    apply_patch(model, patch_for(model, {"a": {6: 1.0}}))
    assert count_in_force() == 2
    first.revert()
    assert count_in_force() == 0
    assert model.a.tolist()[:7] == [70, 71, 72, 3, 4, 5, 1]


@settings(derandomize=True, deadline=None, max_examples=150)
@given(data=st.data())
def test_any_order_of_overlapping_grafts_reverts_drops_and_writes(data: st.DataObject) -> None:
    """Compare with a list of layers.

    A revert succeeds where no later graft in force shares a coordinate, and nothing else was written there; then every
    coordinate holds what it held before that graft.
    """
    model: Any = model_of({"a": torch.arange(6.0)})
    model.t = torch.nn.Parameter(model.a.detach().view(2, 3).t())  # the same memory in another order
    layers: list[tuple[Grafted | None, set[int], dict[int, float], dict[int, float]]] = []
    count = 100.0
    for _ in range(data.draw(st.integers(1, 8))):
        act = data.draw(st.sampled_from(["apply", "apply", "revert", "drop", "write"]))
        values_now = model.a.tolist()
        alive = [layer for layer in layers if layer[0] is not None]
        if act == "apply":
            where = data.draw(st.sets(st.integers(0, 5), min_size=1, max_size=3))
            values = {i: (count := count + 1) for i in where}
            transposed = {i % 3 * 2 + i // 3: value for i, value in values.items()}
            name, changes = data.draw(st.sampled_from([("a", values), ("t", transposed)]))
            patch = make_patch({"a": model.a.detach(), "t": model.t.detach()}, {name: changes})
            layers.append((apply_patch(model, patch), where, {i: values_now[i] for i in where}, values))
            assert model.a.tolist() == [values.get(i, values_now[i]) for i in range(6)]
        elif act == "write":
            i = data.draw(st.integers(0, 5))
            model.a.data[i] = count = count + 1
        elif alive:
            layer = data.draw(st.sampled_from(alive))
            position = layers.index(layer)
            handle, where, before, values = layer
            assert handle is not None
            if act == "drop":
                layers[position] = (None, where, before, values)
                del handle, layer, alive
                continue
            later = any(other[1] & where for other in layers[position + 1 :])
            if later or any(values_now[i] != values[i] for i in where):
                with pytest.raises(RevertError):
                    handle.revert()
                assert model.a.tolist() == values_now
            else:
                handle.revert()
                assert model.a.tolist() == [before.get(i, values_now[i]) for i in range(6)]
                del layers[position]
