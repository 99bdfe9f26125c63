from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import MismatchError
from graft.files.tensor_spec import TensorSpec
from graft.patch.mask import Mask

SPECS = {"a": TensorSpec("F32", (3, 4)), "b": TensorSpec("BF16", (5,)), "c": TensorSpec("F32", ())}
EVERYTHING = {(name, i) for name, spec in SPECS.items() for i in range(spec.numel)}
COORDINATES = st.sets(st.sampled_from(sorted(EVERYTHING)))
Coordinates = set[tuple[str, int]]


def mask_of(coordinates: Coordinates) -> Mask:
    return Mask.of(SPECS, {name: [i for n, i in coordinates if n == name] for name in SPECS})


def set_of(mask: Mask) -> Coordinates:
    return {(name, int(i)) for name in mask for i in mask[name]}


@settings(derandomize=True, deadline=None)
@given(COORDINATES, COORDINATES)
def test_the_algebra_is_that_of_sets(left: Coordinates, right: Coordinates) -> None:
    a, b = mask_of(left), mask_of(right)
    assert set_of(a) == left
    assert len(a) == len(left)
    assert set_of(a | b) == left | right
    assert set_of(a & b) == left & right
    assert set_of(a - b) == left - right
    assert set_of(a.complement(SPECS)) == EVERYTHING - left
    assert a.jaccard(b) == (len(left & right) / len(left | right) if left | right else 1.0)
    assert (a == b) == (left == right)
    assert a | b == (a - b) | (a & b) | (b - a)


@settings(derandomize=True, deadline=None)
@given(COORDINATES, COORDINATES)
def test_every_result_keeps_the_form_of_a_mask(left: Coordinates, right: Coordinates) -> None:
    for mask in (mask_of(left) | mask_of(right), mask_of(left) - mask_of(right), mask_of(left) & mask_of(right)):
        assert list(mask) == sorted(mask)
        assert mask.specs.keys() == mask.indices.keys()
        for name in mask:
            assert mask[name].size >= 1
            assert mask[name].dtype == np.int64
            assert (np.diff(mask[name]) > 0).all()


def test_order_and_repeats_do_not_matter() -> None:
    assert Mask.of(SPECS, {"a": [5, 1, 5, 3]}) == Mask.of(SPECS, {"a": np.array([[1], [3], [5]], np.int8)})
    assert Mask.of(SPECS, {"a": [5, 1, 5, 3]}) != Mask.of(SPECS, {"a": [5, 1]})


def test_full_density_and_missing_tensors() -> None:
    full = Mask.full(SPECS)
    assert set_of(full) == EVERYTHING
    assert full.density(72) == 0.25
    assert "b" not in list(mask_of({("a", 1)}))
    assert mask_of({("a", 1)})["b"].size == 0
    assert repr(full) == "Mask(18 entries in 3 tensors)"


def test_a_mask_cannot_be_changed() -> None:
    source = np.array([1, 2, 3])
    mask = Mask.of(SPECS, {"a": source})
    source[0] = 9
    assert mask["a"].tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="read-only"):
        mask["a"][0] = 9
    assert not mask["b"].flags.writeable
    with pytest.raises(dataclasses.FrozenInstanceError):
        mask.indices = {}  # type: ignore[misc]
    with pytest.raises(TypeError, match="unhashable"):
        hash(mask)


@pytest.mark.parametrize("operation", ["__or__", "__and__", "__sub__", "jaccard"])
def test_two_shapes_of_one_tensor_are_refused_by_name(operation: str) -> None:
    mask = mask_of({("a", 1), ("b", 2)})
    getattr(mask, operation)(mask)
    other = Mask.of({**SPECS, "a": TensorSpec("F32", (4, 3))}, {"a": [1], "b": [2]})
    assert mask != other
    with pytest.raises(MismatchError, match=r"'a'.*\[3, 4\].*\[4, 3\]"):
        getattr(mask, operation)(other)


def test_the_complement_refuses_a_scope_of_another_shape() -> None:
    with pytest.raises(MismatchError, match="'b'"):
        mask_of({("b", 1)}).complement({"b": TensorSpec("BF16", (6,))})


@pytest.mark.parametrize("indices", [[12], [-1], [0, 2**62], [1.5], [True, False], ["1"], np.array([2**63], np.uint64)])
def test_indices_that_are_none_are_refused_by_name(indices: object) -> None:
    assert len(Mask.of(SPECS, {"a": [0, 11], "b": []})) == 2
    with pytest.raises(MismatchError, match="'a'"):
        Mask.of(SPECS, {"a": indices})  # type: ignore[dict-item]


def test_a_tensor_without_a_shape_is_refused() -> None:
    with pytest.raises(MismatchError, match="'zebra'"):
        Mask.of(SPECS, {"zebra": [0]})
