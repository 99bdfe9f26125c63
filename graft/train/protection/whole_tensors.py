"""A patch's whole tensors and new rows in a model: held where the model has the patch's values, and free elsewhere.

A whole tensor, such as a classifier's head, has no value in the base that could be told from any other. Where a model
has other values there, they are not the skill's: a new head, which the task at hand has to train, or that of other
labels. So values decide, and whatever stays free is told by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from graft.files.tensor_spec import TensorSpec
from graft.patch.compatibility import Target, check_specs
from graft.patch.growth import continue_shape
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.tensors.dtypes import same_bits


@dataclass(frozen=True)
class WholeTensors:
    """The whole tensors of a patch in a model.

    Attributes:
        held: the entries of those whose values are the patch's, by the model's names.
        placed: the entries of all that the model has in the patch's shape, whatever their values.
        free: the patch's name of each other -> why it is not held.
    """

    held: Mask
    placed: Mask
    free: Mapping[str, str]


def find_whole_tensors(patch: Patch, target: Target) -> WholeTensors:
    """Look for a patch's whole tensors, and a vocabulary's new rows, in a model."""
    held, placed, free = Mask.of({}, {}), Mask.of({}, {}), dict[str, str]()
    names = _match(patch, target)
    for name, values in patch.dense.items():
        if (found := names.get(name)) is None:
            free[name] = "not in the model"
        elif (spec := target.spec(found)).shape != _full_shape(patch, name):
            free[name] = "of another shape in the model"
        else:
            indices = torch.arange(spec.numel - values.numel(), spec.numel)  # new rows are the last
            place = Mask.of({found: spec}, {found: indices.numpy()})
            placed |= place
            narrow = narrowed(target.gather(found, indices), values.dtype)
            if narrow is not None and same_bits(narrow, values.flatten()):
                held |= place
            else:
                free[name] = "of other values in the model"
    return WholeTensors(held, placed, free)


def entries_of(patch: Patch, target: Target) -> Mask:
    """Return a patch's entries; of a tensor with new rows in the shape that it has with them where the model has them.

    New rows are the last, so that indices stay as they are.
    """
    names, specs = _match(patch, target), dict(patch.mask.specs)
    for name in patch.provenance.grown.keys() & specs.keys() & names.keys():
        if target.spec(names[name]).shape == _full_shape(patch, name):
            specs[name] = TensorSpec(specs[name].dtype, _full_shape(patch, name))
    return dataclasses.replace(patch.mask, specs=specs)


def narrowed(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | None:
    """Return values in a dtype that holds them as they are; None where it would round."""
    narrow = values.to(dtype)
    return narrow if same_bits(narrow.to(values.dtype), values) else None


def _match(patch: Patch, target: Target) -> Mapping[str, str]:
    """Return the model's names of the whole tensors that it has, whatever their shapes."""
    shapes = {name: tuple(values.shape) for name, values in patch.dense.items()}
    return check_specs({}, shapes, patch.provenance.tied, target, grown=patch.provenance.grown, cast=True).dense


def _full_shape(patch: Patch, name: str) -> tuple[int, ...]:
    shape, growth = tuple(patch.dense[name].shape), patch.provenance.grown.get(name)
    return shape if growth is None else continue_shape(growth, shape)
