from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.files.tensor_spec import ITEM_SIZES, TensorSpec
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import (
    TORCH_DTYPES,
    as_bits,
    assign,
    from_bytes,
    is_finite,
    same_bits,
    spec_of,
    take,
    to_bytes,
)
from graft.tensors.hashing import digest_of, hash_values
from tests.checkpoints import sample_tensors, write_sharded, write_single

DTYPES = st.sampled_from(sorted(TORCH_DTYPES))
SHAPES = st.lists(st.integers(1, 4), max_size=3).map(tuple)


def random_bits(dtype: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    n_bytes = TensorSpec(dtype, shape).n_bytes
    high = 2 if dtype == "BOOL" else 256
    data = torch.randint(high, (n_bytes,), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return from_bytes(data.numpy().tobytes(), dtype, shape)


@settings(derandomize=True, deadline=None)
@given(DTYPES, SHAPES, st.integers(0, 99), st.booleans(), st.data())
def test_take_and_assign_move_bits_in_any_dtype_and_layout(
    dtype: str, shape: tuple[int, ...], seed: int, strided: bool, data: st.DataObject
) -> None:
    tensor = random_bits(dtype, shape, seed)
    tensor = tensor.mT.contiguous().mT if strided and len(shape) > 1 else tensor
    chosen = torch.tensor(sorted(data.draw(st.sets(st.integers(0, tensor.numel() - 1), min_size=1))))
    expected = to_bytes(tensor)
    size = ITEM_SIZES[dtype]
    assert to_bytes(take(tensor, chosen)) == b"".join(expected[size * i : size * (i + 1)] for i in chosen)
    new = random_bits(dtype, (len(chosen),), seed + 1)
    before = tensor.clone()
    assign(tensor, chosen, new)
    assert to_bytes(take(tensor, chosen)) == to_bytes(new)
    others = torch.tensor([i for i in range(tensor.numel()) if i not in chosen.tolist()], dtype=torch.int64)
    assert to_bytes(take(tensor, others)) == to_bytes(take(before, others))
    assert from_bytes(to_bytes(tensor), dtype, shape).shape == shape


def test_what_is_taken_is_a_copy() -> None:
    tensor = torch.arange(5.0)
    values = take(tensor, torch.arange(5))
    tensor.zero_()
    assert values.tolist() == [0, 1, 2, 3, 4]


def test_equality_is_that_of_bits() -> None:
    nan, zero = torch.tensor([float("nan")]), torch.zeros(1)
    assert same_bits(nan, nan.clone())
    assert same_bits(zero, zero.clone())
    assert not same_bits(zero, -zero)
    assert not same_bits(zero, zero.half())
    assert not same_bits(zero, torch.zeros(2))


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "F8_E5M2"])
def test_finite_means_finite_in_its_own_dtype(dtype: str) -> None:
    largest = torch.finfo(TORCH_DTYPES[dtype]).max
    values = torch.tensor([0.0, largest], dtype=torch.float64).to(TORCH_DTYPES[dtype])
    assert is_finite(values)  # also where fp32 could not hold it
    assert is_finite(values[:0])
    for bad in (float("nan"), float("inf"), float("-inf")):
        assert not is_finite(torch.tensor([0.0, bad]).to(TORCH_DTYPES[dtype]))


def test_specs() -> None:
    assert spec_of(torch.zeros(2, 3, dtype=torch.bfloat16)) == TensorSpec("BF16", (2, 3))
    assert (TensorSpec("F32", ()).numel, TensorSpec("F32", (3, 0)).numel) == (1, 0)
    assert [name for name in TORCH_DTYPES if TensorSpec(name, ()).is_float] == list(TORCH_DTYPES)[:6]
    assert str(TensorSpec("I64", (2,))) == "I64[2]"


def test_a_print_is_the_start_of_sha256_of_little_endian_bytes() -> None:
    values = torch.tensor([1.0, -0.0])
    assert to_bytes(values) == bytes.fromhex("0000803f00000080")
    assert hash_values(values) == hashlib.sha256(to_bytes(values)).hexdigest()[:16]
    assert hash_values(values) != hash_values(torch.tensor([1.0, 0.0]))
    assert to_bytes(as_bits(torch.tensor([True, False]))) == b"\x01\x00"


def test_a_digest_sees_values_names_and_dtypes_but_not_shards(tmp_path: Path) -> None:
    tensors = sample_tensors()
    single = digest_of(Checkpoint.open(write_single(tmp_path / "single", tensors)))
    assert digest_of(Checkpoint.open(write_sharded(tmp_path / "sharded", tensors, 3))) == single
    changed = {name: tensor.clone() for name, tensor in tensors.items()}
    changed["head.w"][0, 0] = torch.nextafter(changed["head.w"][0, 0], torch.tensor(9.0))
    renamed = {name.replace("head", "tail"): tensor for name, tensor in tensors.items()}
    cast = tensors | {"head.w": tensors["head.w"].double()}
    others = [
        digest_of(Checkpoint.open(write_single(tmp_path / str(i), t))) for i, t in enumerate((changed, renamed, cast))
    ]
    assert len({single, *others}) == 4


def test_the_sizes_of_elements_are_those_of_torch() -> None:
    assert {name: dtype.itemsize for name, dtype in TORCH_DTYPES.items()} == ITEM_SIZES
    assert TensorSpec("BF16", (3, 5)).n_bytes == 30
