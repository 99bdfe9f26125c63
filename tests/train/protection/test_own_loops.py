"""`graft.protect` in loops of one's own: clipping, scaling, tied weights, what is refused, and the end of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import graft
from graft.errors import CheckpointError, PatchMismatchError, ProtectionError
from graft.files.tensor_spec import TensorSpec
from graft.patch.mask import Mask
from graft.patch.provenance import Provenance
from graft.patch.skill_patch import Patch
from graft.tensors.dtypes import as_bits, spec_of
from graft.tensors.growth import Growth
from graft.train.protection.guard import How, Protection
from tests.checkpoints import bits_of, make_patch, model_of, sample_tensors, small_llama
from tests.train.protection.loops import OPTIMIZERS, Wrapper, bits_of_weights, loss_of, make_mask, make_model, moved_at

WAYS: tuple[How, ...] = ("restore", "bits", "compact")


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, number: int = 0) -> None:
    optimizer.zero_grad()
    loss_of(model, number).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def sum_of_squares(model: torch.nn.Module) -> torch.Tensor:
    return torch.stack([(weight.float() - 3).square().sum() for weight in model.parameters()]).sum()


def adamw(model: torch.nn.Module, **more: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1, **more)


@pytest.mark.parametrize("how", WAYS)
def test_clipping_sees_the_free_gradients_alone(how: How) -> None:
    model = make_model()
    mask = make_mask(model, 0.5)
    loss_of(model, 0).backward()  # type: ignore[no-untyped-call]
    expected = {}
    for name, weight in model.named_parameters():
        assert weight.grad is not None
        expected[name] = weight.grad.flatten().clone()
        expected[name][torch.tensor(mask[name])] = 0
    model.zero_grad()
    with graft.protect(model, adamw(model), mask, how=how):
        loss_of(model, 0).backward()  # type: ignore[no-untyped-call]
        for name, weight in model.named_parameters():
            assert weight.grad is not None
            assert torch.equal(weight.grad.flatten(), expected[name])
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    assert torch.allclose(norm, torch.cat(list(expected.values())).norm())


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("optimizer", ["sgd, momentum", "adamw, fused"])
def test_autocast_and_gradient_scaling(optimizer: str, how: How) -> None:
    model = make_model()
    before, mask = bits_of_weights(model), make_mask(model, 0.9)
    made, scaler = OPTIMIZERS[optimizer](model.parameters()), torch.amp.GradScaler("cpu", init_scale=2.0**120)
    with graft.protect(model, made, mask, how=how):
        scales = []
        for number in range(6):
            made.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(model, number)
            scaler.scale(loss * 2.0**12).backward()  # type: ignore[no-untyped-call]
            scaler.unscale_(made)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(made)
            scaler.update()
            scales.append(scaler.get_scale())
    assert scales[0] < 2.0**120  # the first steps overflow and are left out
    after = bits_of_weights(model)
    assert moved_at(before, after, mask) == 0
    assert moved_at(before, after, mask.complement(mask.specs)) > 0
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())


def test_the_way_is_chosen_by_density_tensor_by_tensor() -> None:
    model = make_model()
    few, many = (dict(make_mask(model, share).indices) for share in (0.01, 0.9))
    specs = {name: spec_of(weight) for name, weight in model.named_parameters()}
    mask = Mask.of(specs, {"0.weight": few["0.weight"], "2.weight": many["2.weight"]})
    optimizer = adamw(model)
    protection = graft.protect(model, optimizer, mask)
    share = len(mask) / (24 * 32 + 32 * 8)
    said = f"protected: {len(mask)} entries ({share:.4g} of 1,024), present values; "
    assert protection.describe() == said + "compact in 1 tensor, restore in 1 tensor"
    step(model, optimizer)
    whole, compact = (optimizer.state[weight]["exp_avg"] for weight in model.parameters())
    assert whole.shape == (32, 24)
    assert compact.shape == (256 - len(many["2.weight"]),)
    protection.release()
    assert optimizer.state[list(model.parameters())[1]]["exp_avg"].shape == (8, 32)
    step(model, optimizer)  # free again
    elsewhere = graft.protect(make_model(), adamw(model), [])
    assert elsewhere.k == 0
    model = make_model()
    assert "compact" not in graft.protect(model, OPTIMIZERS["muon"](model.parameters()), mask).implementation


def test_compact_training_takes_up_a_state_that_was_made_for_whole_tensors() -> None:
    models = [make_model(), make_model()]
    for how, model in zip(("restore", "compact"), models, strict=True):
        optimizer = adamw(model)
        step(model, optimizer)
        with graft.protect(model, optimizer, make_mask(model, 0.9), how=how):  # type: ignore[arg-type]
            step(model, optimizer, 1)
        assert optimizer.state[next(model.parameters())]["exp_avg"].shape == (32, 24)
    for left, right in zip(*(model.parameters() for model in models), strict=True):
        assert torch.allclose(left, right, rtol=1e-6)


def test_memory_of_bits_is_values_and_bits() -> None:
    weight = {"w": torch.zeros(1000, 41)}
    model = model_of(weight)
    mask = make_mask(model, 0.5)
    made = {how: graft.protect(model, adamw(model), mask, how=how).nbytes for how in ("restore", "bits")}  # type: ignore[arg-type]
    assert made == {"restore": len(mask) * (4 + 8), "bits": len(mask) * 4 + 41_000 // 8}


@pytest.mark.parametrize("how", WAYS)
def test_tied_weights_scalars_buffers_and_wrappers(how: How) -> None:
    llama = small_llama(tied=True)
    wrapped = torch.nn.Module()
    wrapped.module = llama  # as data-parallel wrappers name it
    weights = dict(llama.named_parameters(remove_duplicate=False))
    head, embedding = "lm_head.weight", "model.embed_tokens.weight"
    mask = Mask.of({name: spec_of(weights[name]) for name in (head, embedding)}, {head: [0, 1], embedding: [1, 2]})
    before, optimizer = weights[embedding].detach().flatten().clone(), adamw(wrapped)
    with graft.protect(wrapped, optimizer, mask, how=how) as protection:
        assert protection.k == 3
        sum_of_squares(wrapped).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    after = weights[embedding].detach().flatten()
    assert (before == after).nonzero().flatten().tolist() == [0, 1, 2]

    model = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    model.register_parameter("scale", torch.nn.Parameter(torch.tensor(2.0)))
    specs = {"scale": TensorSpec("F32", ()), "0.running_mean": TensorSpec("F32", (4,))}
    optimizer = adamw(model)
    with graft.protect(model, optimizer, Mask.of(specs, {"scale": [0], "0.running_mean": [1]}), how=how):
        (model(torch.ones(3, 4)).sum() * model.scale).backward()
        optimizer.step()
        assert model.scale.item() == 2
        assert model[0].running_mean.tolist() == pytest.approx([0.1, 0, 0.1, 0.1])


def test_tensors_out_of_order_in_memory() -> None:
    for how in WAYS:
        model = model_of({"w": torch.arange(600.0).reshape(20, 30)})
        model.w = torch.nn.Parameter(torch.arange(600.0).reshape(20, 30).t())
        mask, optimizer = make_mask(model, 0.3), adamw(model)
        before = bits_of_weights(model)
        with graft.protect(model, optimizer, mask, how=how):
            sum_of_squares(model).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        assert moved_at(before, bits_of_weights(model), mask) == 0
        assert moved_at(before, bits_of_weights(model), mask.complement(mask.specs)) == 600 - len(mask)


def test_sparse_gradients_do_not_stop_it() -> None:
    model = torch.nn.Embedding(5, 2, sparse=True)
    mask, optimizer = Mask.of({"weight": TensorSpec("F32", (5, 2))}, {"weight": [2, 3]}), None
    before, optimizer = model.weight.detach().clone(), torch.optim.SparseAdam(list(model.parameters()), lr=0.1)
    with graft.protect(model, optimizer, mask):
        model(torch.arange(5)).sum().backward()
        optimizer.step()
    assert (before == model.weight).flatten().nonzero().flatten().tolist() == [2, 3]


def patch_of(dtype: torch.dtype = torch.float32) -> tuple[dict[str, torch.Tensor], Patch]:
    base = sample_tensors(dtype=dtype)
    return base, make_patch(base, {"layers.0.w": {3: 5.0, 7: -0.0}, "embed.weight": {0: 2.0}})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_patch_is_protected_where_its_skill_or_its_base_stands(dtype: torch.dtype) -> None:
    base, patch = patch_of(dtype)
    for made, expected in ((base, "base"), ({**base, **tuned_of(base, patch)}, "skill")):
        model = model_of({name: tensor.float().clone() for name, tensor in made.items()})  # in a wider dtype perhaps
        kept, optimizer = bits_of(model), adamw(model)
        with graft.protect(model, optimizer, patch) as protection:
            assert (protection.k, protection.matched_values) == (3, expected)
            sum_of_squares(model).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        after = torch.frombuffer(bytearray(bits_of(model)["layers.0.w"]), dtype=torch.int32)
        same = after == torch.frombuffer(bytearray(kept["layers.0.w"]), dtype=torch.int32)
        assert same.nonzero().flatten().tolist() == [3, 7]


def tuned_of(base: dict[str, torch.Tensor], patch: Patch) -> dict[str, torch.Tensor]:
    tuned = {name: base[name].clone() for name in patch.mask}
    for name, tensor in tuned.items():
        tensor.view(-1)[torch.tensor(patch.mask[name])] = patch.values[name]
    return tuned


def test_some_coordinates_can_be_left_out() -> None:
    base, patch = patch_of()
    model, other = model_of(base), make_patch(base, {"layers.0.w": {7: 1.0, 8: 1.0}})
    assert graft.protect(model, adamw(model), [patch, other.mask], unprotect=other).k == 2


def with_head() -> tuple[dict[str, torch.Tensor], Patch, dict[str, torch.Tensor]]:
    base, row = sample_tensors(), torch.linspace(-1, 1, 5)
    head = {"classifier.weight": torch.stack([row, -row]), "classifier.bias": torch.tensor([0.5, -0.0])}
    return base, make_patch(base, {"layers.0.w": {3: 5.0}}, dense=head), head


def moved_by_a_step(model: torch.nn.Module, patch: Patch, **more: Any) -> tuple[dict[str, list[int]], Protection]:
    before, optimizer = {name: weight.detach().clone() for name, weight in model.named_parameters()}, adamw(model)
    with graft.protect(model, optimizer, patch, **more) as protection:
        sum_of_squares(model).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    changed = {name: (weight != before[name]).flatten() for name, weight in model.named_parameters()}
    return {name: flags.nonzero().flatten().tolist() for name, flags in changed.items()}, protection


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_patchs_head_is_held_where_the_model_has_its_values(dtype: torch.dtype) -> None:
    base, patch, head = with_head()
    made = {**base, **tuned_of(base, patch), **head}
    moved, protection = moved_by_a_step(model_of({name: tensor.to(dtype) for name, tensor in made.items()}), patch)
    assert (moved["classifier.weight"], moved["classifier.bias"]) == ([], [])
    assert (protection.k, protection.matched_values, dict(protection.left_free)) == (1 + 10 + 2, "skill", {})
    assert "free" not in protection.describe()
    moved, protection = moved_by_a_step(model_of({**made, **{name: 2 * made[name] for name in head}}), patch)
    assert moved["classifier.weight"] == list(range(10))
    assert protection.k == 1
    free = ", ".join(f"{name} (of other values in the model)" for name in sorted(head))
    assert protection.describe().endswith(f"restore in 1 tensor; the patch's whole tensors left free: {free}")


def test_what_a_head_cannot_be_held_by_is_said() -> None:
    base, patch, head = with_head()
    _, protection = moved_by_a_step(model_of({**base, "classifier.weight": torch.zeros(3, 5)}), patch)
    free = {"classifier.bias": "not in the model", "classifier.weight": "of another shape in the model"}
    assert (protection.k, protection.matched_values, dict(protection.left_free)) == (1, "base", free)
    moved, protection = moved_by_a_step(model_of({**base, **head}), patch)  # the head without the other entries
    assert (moved["classifier.weight"], protection.matched_values) == ([], "skill and base")
    row = Mask.of({"classifier.weight": TensorSpec("F32", (2, 5))}, {"classifier.weight": range(5)})
    assert moved_by_a_step(model_of({**base, **head}), patch, unprotect=row)[0]["classifier.weight"] == [*range(5)]
    assert moved_by_a_step(model_of({**base, **head}), patch, unprotect=patch)[1].k == 0


def test_a_vocabularys_new_rows_are_held_beside_entries_of_the_old() -> None:
    base = sample_tensors()
    n_rows, width = base["embed.weight"].shape
    rows, grown = torch.linspace(-1, 1, 2 * width).view(2, width), Provenance(grown={"embed.weight": Growth(n_rows)})
    changes = {"embed.weight": {1: 2.0}, "layers.0.w": {3: 5.0}}
    patch = make_patch(base, changes, provenance=grown, dense={"embed.weight": rows})
    tuned = base | tuned_of(base, patch)
    moved, protection = moved_by_a_step(
        model_of(tuned | {"embed.weight": torch.cat([tuned["embed.weight"], rows])}), patch
    )
    assert moved["embed.weight"] == [i for i in range(n_rows * width) if i != 1]
    assert (protection.k, protection.matched_values, dict(protection.left_free)) == (2 + 2 * width, "skill", {})
    others = torch.cat([tuned["embed.weight"], rows + 1])
    moved, protection = moved_by_a_step(model_of(tuned | {"embed.weight": others}), patch)
    assert len(moved["embed.weight"]) == (n_rows + 2) * width - 1
    assert dict(protection.left_free) == {"embed.weight": "of other values in the model"}
    moved, protection = moved_by_a_step(model_of({**base}), patch)  # before the vocabulary grew
    assert (protection.k, protection.matched_values) == (2, "base")
    assert dict(protection.left_free) == {"embed.weight": "of another shape in the model"}


def test_what_does_not_fit_is_refused() -> None:
    base, patch = patch_of()
    model = model_of({name: tensor.clone() for name, tensor in base.items()})
    with torch.no_grad():
        model.layers.get_submodule("0").w.view(-1)[3] = 4.0
    with pytest.raises(PatchMismatchError, match=r"tensor 'layers.0.w': .* 2 entries are not all the patch's, and not"):
        graft.protect(model, adamw(model), patch)
    assert graft.protect(model, adamw(model), patch.mask).matched_values == "present"
    wide = Mask.of({"layers.0.w": TensorSpec("F32", (5, 6))}, {"layers.0.w": [0]})
    with pytest.raises(PatchMismatchError, match=r"'layers.0.w': shape \[6, 5\], the patch was cut from \[5, 6\]"):
        graft.protect(model, adamw(model), wide)
    with torch.device("meta"):
        nowhere = make_model()
    with pytest.raises(CheckpointError, match=r"on the meta device"):
        graft.protect(nowhere, adamw(nowhere), make_mask(make_model(), 0.1))


def test_an_optimizer_of_other_tensors_is_refused() -> None:
    model = make_model()
    mask, stale = make_mask(model, 0.1), adamw(model)
    moved = torch.nn.Sequential(*(torch.nn.Linear(*layer.weight.shape[::-1], bias=False) if hasattr(layer, "weight")
                                  else layer for layer in model))  # fmt: skip
    with pytest.raises(ProtectionError, match=r"not its '0.weight': make it after the model was moved or wrapped"):
        graft.protect(moved, stale, mask)
    with pytest.raises(ProtectionError, match=r"make it after the model was moved"):
        graft.protect(moved, Wrapper(stale), mask)
    only_last = torch.optim.SGD(list(model.parameters())[1:], lr=0.1, weight_decay=0.1)
    with graft.protect(model, only_last, mask) as protection:  # the first is not trained: it is watched
        assert protection.implementation == "restore in 1 tensor, watch in 1 tensor"
        step(model, only_last)


def test_two_protections_of_one_optimizer_are_refused() -> None:
    model = make_model()
    optimizer = adamw(model)
    protection = graft.protect(model, optimizer, make_mask(model, 0.1))
    with pytest.raises(ProtectionError, match=r"under protection already: give all masks in one call"):
        graft.protect(model, Wrapper(optimizer), make_mask(model, 0.2))
    protection.release()
    graft.protect(model, optimizer, make_mask(model, 0.2)).release()


@pytest.mark.parametrize(("how", "count"), [("restore", "1 of its "), ("bits", "1 of its "), ("compact", "some ")])
def test_a_write_from_elsewhere_is_found(how: How, count: str) -> None:
    model = make_model()
    mask = make_mask(model, 0.9)

    def tampered() -> Protection:
        protection = graft.protect(model, adamw(model), mask, how=how)
        protection.check()
        with torch.no_grad():
            as_bits(model[2].weight.detach()).view(-1)[mask["2.weight"][0]] ^= 1
        return protection

    with pytest.raises(ProtectionError, match=rf"tensor '2.weight': {count}.*something other than the optimizer"):
        tampered().check()
    with pytest.raises(ProtectionError), tampered():
        pass
    with pytest.raises(KeyboardInterrupt), tampered():  # what went wrong first is what is heard of
        raise KeyboardInterrupt


def test_a_step_that_fails_does_not_end_it() -> None:
    model = make_model()
    mask = make_mask(model, 0.9)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    before = bits_of_weights(model)
    with graft.protect(model, optimizer, mask, how="compact"):
        optimizer.param_groups[0]["lr"] = "fast"
        with pytest.raises(TypeError):
            step(model, optimizer)
        optimizer.param_groups[0]["lr"] = 0.1
        step(model, optimizer)
    assert moved_at(before, bits_of_weights(model), mask) == 0
    assert moved_at(before, bits_of_weights(model), mask.complement(mask.specs)) > 0
    assert [id(weight) for weight in optimizer.param_groups[0]["params"]] == [id(w) for w in model.parameters()]
