"""Products of 16-bit matrices in fp32: what a processor that has them computes, and torch's own everywhere else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graft.tensors import wide_products
from graft.tensors.dtypes import NARROW, same_bits
from graft.tensors.wide_products import multiplies_fast, register_products

sizes = st.integers(0, 7)
WIDE = {"mm": 2, "addmm": 2, "bmm": 3, "baddbmm": 3}  # name -> dimensions


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """Have small products computed in small parts; return what was cut in parts, as (lines, size of each)."""
    plain = register_products([])  # over what this processor may have needed in an earlier test
    seen: list[tuple[int, int]] = []
    cut = wide_products._parts

    def spy(n_lines: int, size: int) -> Iterator[slice]:
        seen.append((n_lines, size))
        return cut(n_lines, size)

    monkeypatch.setattr(wide_products, "_parts", spy)
    monkeypatch.setattr(wide_products, "_PART", 12)
    monkeypatch.setattr(wide_products, "_FEW", 0)
    yield seen
    del plain


def draw(shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", WIDE)
def test_a_product_is_that_of_fp32_rounded_once(name: str, dtype: torch.dtype) -> None:
    operator = getattr(torch, name)
    registration = register_products([dtype])

    @given(b=sizes, m=sizes, k=sizes, n=sizes, row=st.booleans(), beta=st.sampled_from([0, 1, 0.5]))
    def check(b: int, m: int, k: int, n: int, row: bool, beta: float) -> None:
        batch = (b,) if WIDE[name] == 3 else ()
        factors = [draw((*batch, m, k), 1, dtype), draw((*batch, n, k), 2, dtype).mT]  # one of them transposed
        added = [draw((n,) if row else (*batch, m, n), 3, dtype)] if "add" in name else []
        scales = {"beta": beta, "alpha": 2} if added else {}
        wide = [tensor.float() for tensor in (*added, *factors)]
        expected = operator(*wide, **scales).to(dtype)
        computed = operator(*added, *factors, **scales)
        assert computed.dtype == dtype
        # parts of a product may be summed in another order than the whole: half a step of 8 or 11 bits beside it
        torch.testing.assert_close(computed, expected, rtol=torch.finfo(dtype).eps, atol=1e-6)

    check()
    del registration


def test_whole_products_round_to_the_bits_of_fp32(parts: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide_products, "_PART", 1 << 20)
    left, right = draw((37, 64), 0, torch.bfloat16), draw((64, 50), 1, torch.bfloat16)
    registration = register_products([torch.bfloat16])
    assert same_bits(left @ right, (left.float() @ right.float()).bfloat16())
    assert parts == [(50, 64), (37, 64)]
    del registration


def test_gradients_and_autocast_and_other_threads_have_the_same_products(parts: list[Any]) -> None:
    registration = register_products([torch.bfloat16])
    inputs, weight = draw((5, 8), 0, torch.float32), draw((6, 8), 1, torch.float32).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        output = torch.nn.functional.linear(inputs, weight)
    assert output.dtype == torch.bfloat16
    assert parts
    forward = len(parts)
    output.backward(torch.ones_like(output))
    assert len(parts) > forward
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, inputs.bfloat16().float().sum(0).expand(6, 8), rtol=0.01, atol=0.01)
    parts.clear()
    narrow = inputs.bfloat16()
    thread = threading.Thread(target=lambda: narrow @ narrow.T)
    thread.start()
    thread.join()
    assert parts
    del registration


def test_other_dtypes_and_few_values_are_torchs_own(parts: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [draw((9, 9), 0, dtype) for dtype in (torch.float32, torch.float64, torch.float16)]
    cases.append(torch.arange(81).view(9, 9))
    before = [case @ case for case in cases]
    registration = register_products([torch.bfloat16])
    for case, product in zip(cases, before, strict=True):
        assert torch.equal(case @ case, product)
    assert not parts
    narrow = cases[0].bfloat16()
    narrow @ narrow  # the control
    assert parts
    parts.clear()
    monkeypatch.setattr(wide_products, "_FEW", 81)
    narrow @ narrow
    assert not parts
    del registration


def test_it_ends_with_its_registration(parts: list[Any]) -> None:
    narrow = draw((4, 4), 0, torch.bfloat16)
    registration = register_products([torch.bfloat16])
    narrow @ narrow
    assert parts
    parts.clear()
    del registration
    narrow @ narrow
    assert not parts


@pytest.mark.parametrize(
    ("left", "right", "fact"),
    [((2, 3), (4, 2), "shapes cannot be multiplied"), ((2, 3), (3,), "2-D|2D|matrix"), ((3,), (3, 2), "2-D|2D|matrix")],
)
@pytest.mark.usefixtures("parts")
def test_torch_refuses_what_does_not_fit(left: tuple[int, ...], right: tuple[int, ...], fact: str) -> None:
    registration = register_products([torch.bfloat16])
    with pytest.raises(RuntimeError, match=fact):
        torch.mm(draw(left, 0, torch.bfloat16), draw(right, 1, torch.bfloat16))
    with pytest.raises(RuntimeError, match="dtype"):
        torch.mm(draw((2, 3), 0, torch.bfloat16), draw((3, 2), 1, torch.float32))
    with pytest.raises(RuntimeError, match=r"batch|size"):
        torch.bmm(draw((2, 9, 9), 0, torch.bfloat16), draw((3, 9, 9), 1, torch.bfloat16))
    del registration


def test_a_processor_multiplies_fp32_fast_and_what_torch_does_not_tell() -> None:
    assert multiplies_fast(torch.float32)
    assert multiplies_fast(torch.float64)
