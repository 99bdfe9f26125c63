"""Random small patches of one base, for the algebra: plain functions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from hypothesis import strategies as st

from graft.patch.mask import Mask
from graft.patch.provenance import BaseIdentity, Provenance
from graft.patch.skill_patch import Patch
from tests.checkpoints import Tensors, equal_tensors, make_patch

BASE: Tensors = {
    "layers.0.w": torch.linspace(-1, 1, 12).reshape(3, 4),
    "layers.1.w": torch.linspace(2, -2, 10).bfloat16(),
    "head.b": torch.tensor([0.0, -0.0, 0.5, 1e-3]),
}
ORIGIN = Provenance(base=BaseIdentity(name="base", digest="ab" * 32, n_parameters=26), scope="all", n_maskable=26)
Changes = Mapping[str, Mapping[int, float]]
VALUES = st.sampled_from([-3.0, -0.75, -0.0, 0.0, 0.125, 2.0, 7.5])
PLACES = [(name, i) for name, tensor in BASE.items() for i in range(tensor.numel())]


def patch_of(changes: Mapping[tuple[str, int], float], *, stored: bool = True) -> Patch:
    """A patch of {(tensor, index): value}."""
    by_name: dict[str, dict[int, float]] = {}
    for (name, i), value in changes.items():
        by_name.setdefault(name, {})[i] = value
    return make_patch(BASE, by_name, with_base_values=stored, provenance=ORIGIN)


def patches(least: int = 1, most: int = 4) -> st.SearchStrategy[list[Patch]]:
    """Patches that may overlap."""
    changes = st.dictionaries(st.sampled_from(PLACES), VALUES, min_size=1)
    return st.lists(changes.map(patch_of), min_size=least, max_size=most)


@st.composite
def disjoint_patches(draw: st.DrawFn, m: int, *, stored: bool = True) -> list[Patch]:
    """m patches of which no two share a coordinate."""
    owners = draw(st.lists(st.integers(0, m), min_size=len(PLACES), max_size=len(PLACES)))
    owners[:m] = range(m)  # none is empty
    values = draw(st.lists(VALUES, min_size=len(PLACES), max_size=len(PLACES)))
    return [
        patch_of(
            {place: value for place, owner, value in zip(PLACES, owners, values, strict=True) if owner == i},
            stored=stored,
        )
        for i in range(m)
    ]


def same_content(left: Patch, right: Patch) -> bool:
    """Equal in all but where they came from."""
    return (
        left.mask == right.mask
        and left.mask.specs == right.mask.specs
        and equal_tensors(left.values, right.values)
        and left.base_hashes == right.base_hashes
        and equal_tensors(left.base_values or {}, right.base_values or {})
        and (left.base_values is None) == (right.base_values is None)
        and equal_tensors(left.dense, right.dense)
    )


def applied(patch: Patch, base: Tensors = BASE) -> Tensors:
    """The base with a patch assigned."""
    result = {name: tensor.clone() for name, tensor in base.items()}
    for name in patch.mask:
        result[name].view(-1)[torch.tensor(patch.mask[name])] = patch.values[name]
    return result


def held_by(masks: list[Mask]) -> dict[tuple[str, int], list[int]]:
    """Coordinate -> the masks that hold it: the slow and plain way to count."""
    found: dict[tuple[str, int], list[int]] = {}
    for number, mask in enumerate(masks):
        for name in mask:
            for i in mask[name].tolist():
                found.setdefault((name, i), []).append(number)
    return found
