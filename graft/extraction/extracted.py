"""Extracted: the small form of a fine-tune: its bytes as stored, and the weights that it gives back."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from graft.patch.format.writing import patch_bytes
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.tensors.dtypes import as_bits, take
from graft.tensors.hashing import hash_values
from graft.tensors.pair import CheckpointPair

Decode = Callable[[], torch.Tensor]  # the difference of one tensor in its shape, read from what is stored
Stored = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Extracted:
    """A fine-tune in its small form.

    Attributes:
        n_bytes: of the file that it is stored in, without the base.
        patch: what it changes in the base, entry by entry; None where that is nothing.
        found: settings that were chosen on validation, by name.
        k: entries of the patch, where it is the patch that is stored.
    """

    n_bytes: int
    patch: Patch | None
    found: Mapping[str, float] = field(default_factory=dict)
    k: int | None = None


def extract_patch(patch: Patch) -> Extracted:
    """Return a patch as it stands, with the size of its file."""
    return Extracted(len(patch_bytes(patch)), patch, k=patch.k)


def extract_deltas(pair: CheckpointPair, n_bytes: int, deltas: Mapping[str, Decode]) -> Extracted:
    """Return stored differences with the entries that base + difference changes, rounded to the base's dtype.

    Raises:
        PatchError: a sum is NaN or infinite.
    """
    indices, values, hashes = {}, {}, {}
    for name, decode in deltas.items():
        base = pair.base.read(name).flatten()
        merged = (base.float() + decode().flatten()).to(base.dtype)
        changed = (as_bits(merged) != as_bits(base)).nonzero().squeeze(1)
        if len(changed):
            indices[name], values[name] = changed.numpy(), take(merged, changed)
            hashes[name] = hash_values(take(base, changed))
    mask = Mask.of({name: pair.base.spec(name) for name in indices}, indices)
    return Extracted(n_bytes, Patch(mask, values, hashes) if len(mask) else None)


def count_bytes(stored: Mapping[str, torch.Tensor]) -> int:
    """Return the size of a safetensors file of these tensors."""
    from safetensors.torch import save

    return len(save(dict(stored)))


def count_deflated(stored: Mapping[str, torch.Tensor]) -> int:
    """Return the size of a deflated safetensors file of these tensors, the first bytes of all elements first.

    So the exponents, which repeat, lie side by side.
    """
    planes = {name: _split_bytes(tensor) for name, tensor in stored.items()}
    from safetensors.torch import save

    return len(zlib.compress(save(planes)))


def _split_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Return (bytes of an element, n) uint8."""
    return tensor.flatten().view(torch.uint8).view(-1, tensor.element_size()).T.contiguous()


def store_halves(deltas: Mapping[str, torch.Tensor]) -> tuple[Stored, dict[str, Decode]]:
    """Return differences stored in fp16, and how each is read again."""
    stored = {name: delta.half() for name, delta in deltas.items()}
    return stored, {name: half.float for name, half in stored.items()}
