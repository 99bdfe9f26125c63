"""Patch: a mask, the tuned values at it, and where they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from graft.errors import BudgetError, PatchError
from graft.patch.growth import find_contradiction, grown_rows
from graft.patch.mask import Mask
from graft.patch.provenance import Provenance
from graft.tensors.dtypes import TORCH_DTYPES, is_finite, spec_of
from graft.tensors.hashing import hash_values
from graft.tensors.pair import CheckpointPair
from graft.tensors.scope import Scope


@dataclass(frozen=True, eq=False)
class Patch:
    """A skill as data: assign `values` at `mask` and the base has it.

    Attributes:
        mask: the coordinates, at least one.
        values: tensor name -> (k,) the tuned values, absolute, in the base's dtype and the mask's order.
        base_hashes: tensor name -> hash of the base's values at the same coordinates.
        provenance: base, method, task, metrics.
        base_values: tensor name -> (k,) the base's values, where they were asked for.
        dense: name -> whole tensor that the base lacks or that is always replaced, such as a classifier head; of the
            names in `provenance.grown` the new rows [new rows, ...] alone.
    """

    mask: Mask
    values: Mapping[str, torch.Tensor]
    base_hashes: Mapping[str, str]
    provenance: Provenance = field(default_factory=Provenance)
    base_values: Mapping[str, torch.Tensor] | None = None
    dense: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.mask):
            raise BudgetError("a patch needs at least one entry")
        for name in self.mask:
            for values in (self.values, *((self.base_values,) if self.base_values is not None else ())):
                _check_values(name, values.get(name), self.mask)
            if name not in self.base_hashes:
                raise PatchError(f"tensor {name!r}: no base_print, the hash of the base's values")
        dense_specs = {name: spec_of(tensor) for name, tensor in self.dense.items()}
        if contradiction := find_contradiction(self.provenance.grown, self.mask.specs, dense_specs):
            raise PatchError(contradiction)

    @property
    def k(self) -> int:
        """Number of parameters' entries, which budgets and densities count. `len` counts those of buffers too."""
        return len(self) - sum(len(self.mask[name]) for name in self.provenance.buffers if name in self.mask)

    def __len__(self) -> int:
        return len(self.mask)

    def __repr__(self) -> str:
        base = self.provenance.base
        return f"Patch({self.k:,} of {base.n_parameters:,} weights of {base.id or base.name})"


def _check_values(name: str, values: torch.Tensor | None, mask: Mask) -> None:
    k, dtype = mask[name].size, mask.specs[name].dtype
    if values is None or values.shape != (k,) or values.dtype != TORCH_DTYPES[dtype]:
        raise PatchError(f"tensor {name!r}: values do not match its {k} entries of {dtype}")
    if not is_finite(values):
        raise PatchError(f"tensor {name!r}: NaN or infinite values cannot be put into a patch")


def cut_patch(pair: CheckpointPair, mask: Mask, provenance: Provenance, *, with_base_values: bool = False) -> Patch:
    """Cut the tuned values at a mask out of a pair of checkpoints, one tensor in memory at a time.

    Tensors that only the tuned checkpoint has, heads of another size, and the new rows of a vocabulary that lies in the
    provenance's scope, if only in part, are taken whole, as `dense`.

    Raises:
        BudgetError: the mask is empty.
        CheckpointError: a value is NaN or infinite.
    """
    values, base_values, hashes = {}, {}, {}
    for name, indices in mask.indices.items():
        base, tuned = pair.read_at(name, torch.tensor(indices))
        values[name], base_values[name], hashes[name] = tuned, base, hash_values(base)
    names = pair.whole_in(Scope(provenance.scope or "all"))
    dense = {name: pair.read_whole(name) for name in names}
    buffers = tuple(sorted(pair.base.buffers.intersection(mask)))
    provenance = replace(provenance, grown=grown_rows(pair, names), buffers=buffers)
    return Patch(mask, values, hashes, provenance, base_values if with_base_values else None, dense)
