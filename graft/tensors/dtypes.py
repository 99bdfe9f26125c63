"""The safetensors dtypes that a patch can carry, and tensors as bits and bytes.

Equality here means equality of bits: -0.0 differs from 0.0, and a NaN equals itself.
"""

from __future__ import annotations

import numpy as np
import torch

from graft.files.tensor_spec import TensorSpec
from graft.tensors.shards import is_distributed, local_of, shard_of, sum_over_shards

TORCH_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def spec_of(tensor: torch.Tensor) -> TensorSpec:
    """Return the spec of a live tensor.

    Raises:
        KeyError: a dtype that safetensors cannot store.
    """
    return TensorSpec(DTYPE_NAMES[tensor.dtype], tuple(tensor.shape))


def as_bits(tensor: torch.Tensor) -> torch.Tensor:
    """View the same storage as integers of the same width: comparing these compares bits."""
    return tensor.view(_BITS[tensor.element_size()])


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Return whether two tensors of one dtype hold the same bits throughout."""
    return left.dtype == right.dtype and torch.equal(as_bits(left), as_bits(right))


NARROW = (torch.bfloat16, torch.float16)  # of models that are held in half the bytes of fp32

# the bits of +infinity: without their sign, those of every finite value are below, those of every NaN above
INFINITY = {torch.bfloat16: 0x7F80, torch.float16: 0x7C00, torch.float32: 0x7F800000, torch.float64: 0x7FF << 52}


def size_bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bits of |values| of a 16-, 32- or 64-bit float tensor: a copy, integers in the order of |values|."""
    return as_bits(tensor) & torch.iinfo(_BITS[tensor.element_size()]).max


def is_finite(tensor: torch.Tensor) -> bool:
    """Return whether no value is NaN or infinite."""
    if tensor.dtype in INFINITY and tensor.numel():
        return int(size_bits(tensor).max()) < INFINITY[tensor.dtype]
    wide = tensor if tensor.element_size() > 1 else tensor.float()  # torch.isfinite knows no 8-bit floats
    return bool(torch.isfinite(wide).all())


def lay_flat(tensor: torch.Tensor, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """View a tensor of any layout as 1-D bits of its storage, and locate flat row-major indices in it.

    Both are on the tensor's device. In a contiguous tensor the offsets are the indices themselves. Of a transposed
    2 x 3 matrix, shape (3, 2) and strides (1, 3), flat index 3 is [1, 1], at offset 1 * 1 + 1 * 3 = 4.
    """
    bits, indices = as_bits(tensor.detach()), indices.to(tensor.device)
    if bits.is_contiguous():
        return bits.view(-1), indices
    strides = torch.tensor(bits.stride(), device=bits.device)  # offset = sum over dimensions of index x stride
    offsets = (torch.stack(torch.unravel_index(indices, bits.shape)) * strides.unsqueeze(1)).sum(0)
    extent = 1 + sum((n - 1) * stride for n, stride in zip(bits.shape, bits.stride(), strict=True))
    return bits.as_strided((extent,), (1,)), offsets


def take(tensor: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """Return the (k,) values at flat row-major indices, in any dtype and layout: a copy on the tensor's device.

    Of a DTensor every process gets all values, whichever process holds them: a collective call.
    """
    if is_distributed(tensor):
        return _take_from_shards(tensor, indices)
    flat, offsets = lay_flat(tensor, indices)
    return flat.index_select(0, offsets).view(tensor.dtype)


def assign(tensor: torch.Tensor, indices: torch.Tensor, values: torch.Tensor) -> None:
    """Write the bits of (k,) values of the tensor's dtype at flat row-major indices, in place.

    index_copy_ is thousands of times faster on the CPU than scatter_ (design, section 8). Of a DTensor each process
    writes what lies in its own shard.
    """
    if is_distributed(tensor):
        local = local_of(tensor)
        positions, local_indices = shard_of(tensor).locate(indices.to(local.device))
        assign(local, local_indices, values.to(local.device)[positions])
        return
    flat, offsets = lay_flat(tensor, indices)
    flat.index_copy_(0, offsets, as_bits(values.to(tensor.device)))


def clear(tensor: torch.Tensor, indices: torch.Tensor) -> None:
    """Set the entries at flat row-major indices to 0, in place."""
    flat, offsets = lay_flat(tensor, indices)
    flat.index_fill_(0, offsets, 0)


def _take_from_shards(tensor: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    local = local_of(tensor)
    positions, local_indices = shard_of(tensor).locate(indices.to(local.device))
    wide = torch.int64 if local.element_size() == 8 else torch.int32  # not every engine adds 16-bit integers
    bits = torch.zeros(len(indices), dtype=wide, device=local.device)
    # one process holds each element and the others add 0, so that the sum is its bits
    bits[positions] = as_bits(take(local, local_indices)).to(wide)
    return sum_over_shards(tensor, bits).to(_BITS[local.element_size()]).view(local.dtype)


def to_bytes(tensor: torch.Tensor) -> bytes:
    """Return the little-endian bytes of a tensor's values in row-major order."""
    return byte_view(tensor).tobytes()


def byte_view(tensor: torch.Tensor) -> np.ndarray:
    """Return the same bytes, (n,) uint8, without a copy where the tensor lies on the CPU in that order."""
    return little_endian(as_bits(tensor.detach().cpu().contiguous()).numpy()).reshape(-1).view(np.uint8)


def from_bytes(data: bytes | bytearray | memoryview, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the tensor that `to_bytes` wrote; a bytearray, or a view of one, becomes its memory without a copy."""
    if not data:
        return torch.empty(shape, dtype=TORCH_DTYPES[dtype])
    owned = bytearray(data) if isinstance(data, bytes) else data
    return torch.frombuffer(owned, dtype=TORCH_DTYPES[dtype]).reshape(shape)


def little_endian(array: np.ndarray) -> np.ndarray:
    """Return the array in little-endian byte order: itself on every common machine."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False)
