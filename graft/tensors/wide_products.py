"""Products of 16-bit matrices on processors that have none: in fp32, rounded once.

Without AVX-512, torch multiplies matrices of bfloat16 or float16 element by element: 8 times slower than those of fp32
in a forward pass, and 20 times in both passes (artifacts/benchmarks.md). A processor that has such products computes

    round(fp32(A) fp32(B) + fp32(c))

from 16-bit inputs, with sums in fp32 and one rounding at the end. Every 16-bit number is an fp32 number, so that any
processor can compute the same, at the speed of fp32. Where sums are added up in another order they may round to the
other neighbour, as between any two processors.

torch's own kernels are replaced (`torch.library`), below autograd and autocast, so that forward and backward passes,
generation and all threads have the same products. Of a matrix 32 MB at most are fp32 at a time.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch

from graft.tensors.dtypes import NARROW

_PROCESSOR_HAS = {  # dtype -> oneDNN's operator that tells whether it multiplies in it on this processor
    torch.bfloat16: "_is_mkldnn_bf16_supported",
    torch.float16: "_is_mkldnn_fp16_supported",
}
_PART = 1 << 23  # values of a matrix that are fp32 at a time
_FEW = 1 << 10  # values of a right factor up to which torch's own product takes no longer than the call of ours


def multiplies_fast(dtype: torch.dtype) -> bool:
    """Return whether the processor multiplies matrices of a dtype by instructions of its own, as far as torch tells."""
    ask = getattr(torch.ops.mkldnn, _PROCESSOR_HAS.get(dtype, ""), None)
    return ask is None or bool(ask())


@functools.cache
def widen_slow_products() -> torch.library.Library:
    """Have this process compute in fp32, from now on, those products that its processor has no instructions for."""
    return register_products([dtype for dtype in NARROW if not multiplies_fast(dtype)])


def register_products(dtypes: Collection[torch.dtype]) -> torch.library.Library:
    """Replace torch's products on the CPU by kernels that compute those of some dtypes in fp32.

    Args:
        dtypes: of 16 bits. Products of all others stay torch's own, bit for bit.

    Returns:
        The registration. It ends when nothing refers to it any more.
    """
    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    aten = torch.ops.aten
    kernels = {  # name -> torch's own, which writes to a given tensor and stays; dimensions; how it is cut in parts
        "mm": (aten.mm.out, 2, _multiply_tiles),
        "addmm": (aten.addmm.out, 2, _multiply_tiles),
        "bmm": (aten.bmm.out, 3, _multiply_batches),
        "baddbmm": (aten.baddbmm.out, 3, _multiply_batches),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that a kernel is replaced
        for name, (own, n_dimensions, multiply) in kernels.items():
            kernel = _kernel(own, n_dimensions, multiply, frozenset(dtypes))
            library.impl(name, kernel, "CPU")  # type: ignore[no-untyped-call]
    return library


def _kernel(
    own: Any, n_dimensions: int, multiply: Callable[..., torch.Tensor], dtypes: frozenset[torch.dtype]
) -> Callable[..., torch.Tensor]:
    """Return an operator of torch's signature: ([added,] left, right, beta=, alpha=) -> product."""

    def compute(*tensors: torch.Tensor, **scales: Any) -> torch.Tensor:
        *added, left, right = tensors
        if not (left.dtype in dtypes and left.ndim == n_dimensions and _is_worth_it(tensors)):
            result: torch.Tensor = own(*tensors, **scales, out=left.new_empty(0))  # which refuses what does not fit
            return result
        shape = (*left.shape[:-1], right.shape[-1])
        return multiply(functools.partial(own, **scales), [part.expand(shape) for part in added], left, right)

    return compute


def _is_worth_it(tensors: Sequence[torch.Tensor]) -> bool:
    """Return whether the last two of some tensors are factors that fit each other, and more than a few values."""
    left, right = tensors[-2:]
    fits = left.ndim == right.ndim and left.shape[-1] == right.shape[-2] and left.shape[:-2] == right.shape[:-2]
    return fits and right.numel() > _FEW and all(tensor.dtype == left.dtype for tensor in tensors)


def _multiply_tiles(
    own: Callable[..., torch.Tensor], added: list[torch.Tensor], left: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    """Multiply (m, k) by (k, n): some columns of the product at a time, and of these some rows."""
    out = left.new_empty(left.shape[0], right.shape[1])
    for columns in _parts(right.shape[1], right.shape[0]):
        wide = right[:, columns].float()
        for rows in _parts(*left.shape):
            given = [tensor[rows, columns].float() for tensor in added]
            out[rows, columns] = own(*given, left[rows].float(), wide, out=wide.new_empty(0))
    return out


def _multiply_batches(
    own: Callable[..., torch.Tensor], added: list[torch.Tensor], left: torch.Tensor, right: torch.Tensor
) -> torch.Tensor:
    """Multiply (b, m, k) by (b, k, n): some matrices at a time."""
    out = left.new_empty(*left.shape[:-1], right.shape[-1])
    for part in _parts(len(left), max(left[:1].numel(), right[:1].numel())):
        given = [tensor[part].float() for tensor in (*added, left, right)]
        out[part] = own(*given, out=given[-1].new_empty(0))
    return out


def _parts(n_lines: int, size: int) -> Iterator[slice]:
    """Cut lines of a size each in runs of `_PART` values at most, of one line at least."""
    step = max(1, _PART // max(1, size))
    return (slice(start, start + step) for start in range(0, n_lines, step))
