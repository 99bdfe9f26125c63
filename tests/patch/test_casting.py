"""A model in another dtype: values are rounded into it, and what does not fit is refused before anything is written."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from graft.errors import PatchMismatchError
from graft.patch.casting import cast_values
from graft.patch.live import apply_patch
from tests.checkpoints import bits_of, make_patch, model_of

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64


@pytest.mark.parametrize(
    ("values", "given", "wanted", "fits"),
    [
        ([1.1, 65504.0], F32, F16, True),
        ([1e-9], F32, F16, True),  # rounded to 0, as the whole model was
        ([65520.0], F32, F16, False),
        ([3.4e38], F32, BF16, False),
        ([3.3e38], F32, BF16, True),
        ([1e39], F64, F32, False),
        ([300.0], F32, torch.float8_e4m3fn, True),
        ([600.0], F32, torch.float8_e4m3fn, False),
        ([70000.0], F32, torch.float8_e5m2, False),
        ([1.0, -2.0], F32, torch.int64, True),
        ([1.5], F32, torch.int64, False),
        ([1e30], F32, torch.int64, False),
        ([2**24], torch.int64, F32, True),
        ([2**24 + 1], torch.int64, F32, False),
        ([70000], torch.int64, F16, False),
        ([2**31], torch.int64, torch.int32, False),
        ([-1], torch.int64, torch.uint64, False),
        ([255], torch.int64, torch.uint8, True),
        ([2], torch.int64, torch.bool, False),
        ([0, 1], torch.int64, torch.bool, True),
    ],
)
def test_rounding_is_a_cast_and_anything_worse_is_not(
    values: list[float], given: torch.dtype, wanted: torch.dtype, fits: bool
) -> None:
    tensor = torch.tensor(values, dtype=given)
    if fits:
        assert torch.equal(cast_values(tensor, wanted, "w").double(), tensor.to(wanted).double())
    else:
        with pytest.raises(PatchMismatchError, match=r"tensor 'w': some of the patch's values do not fit into torch\."):
            cast_values(tensor, wanted, "w")


def refuse(model: torch.nn.Module, patch: Any, match: str) -> None:
    before = bits_of(model)
    with pytest.raises(PatchMismatchError, match=match):
        apply_patch(model, patch, cast=True)
    assert bits_of(model) == before


def test_a_live_model_keeps_its_bits_where_a_cast_would_overflow() -> None:
    base = {"a": torch.tensor([1.0, 2.0, 7e4]), "b": torch.tensor([1.0, 2.0])}
    model = model_of({name: tensor.half() for name, tensor in base.items()})
    with apply_patch(model, make_patch(base, {"b": {0: 6e4}}, with_base_values=True), cast=True):
        assert model.b[0] == 6e4  # type: ignore[index,union-attr]
    refuse(model, make_patch(base, {"a": {0: 3.0}, "b": {0: 7e4}}, with_base_values=True), "'b': .* values do not fit")
    refuse(model, make_patch(base, {"a": {2: 5.0}}, with_base_values=True), "'a': .* base values do not fit")
    dense = {"b": torch.tensor([1.0, 1e6])}
    refuse(model, make_patch(base, {"a": {0: 3.0}}, with_base_values=True, dense=dense), "'b': .* values do not fit")
