"""Checkpoint tensors as another file of the same architecture lists them: expert by expert, or packed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from graft.files.tensor_spec import TensorSpec
from graft.tensors.dtypes import TORCH_DTYPES
from graft.tensors.packed import PackedPart

if TYPE_CHECKING:
    from graft.tensors.checkpoint import Checkpoint


@dataclass(frozen=True)
class Relaid:
    """A tensor made of parts of stored ones, or a part of one.

    Attributes:
        spec: its dtype and shape.
        sources: stored tensor -> where it lies in this one; or, for a `cut`, where this one lies in it.
        cut: whether it is a part of one stored tensor.
    """

    spec: TensorSpec
    sources: Mapping[str, PackedPart]
    cut: bool

    def read(self, checkpoint: Checkpoint) -> torch.Tensor:
        """Return the tensor: a view of the mapped file where it is a part of one, else put together in memory."""
        if self.cut:
            return next(part.of(checkpoint.read(stored)) for stored, part in self.sources.items())
        tensor = torch.empty(self.spec.shape, dtype=TORCH_DTYPES[self.spec.dtype])
        for stored, part in self.sources.items():
            part.of(tensor).copy_(checkpoint.read(stored))
        return tensor

    def locate(self, indices: torch.Tensor) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
        """Locate (k,) flat indices of this tensor in stored ones.

        Returns:
            For each stored tensor its name, positions (m,) and local (m,): element indices[positions] of this tensor
            is element local of the stored one.
        """
        if self.cut:
            return [(stored, torch.arange(len(indices)), part.locate(indices)) for stored, part in self.sources.items()]
        return [(stored, *part.find(indices)) for stored, part in self.sources.items()]


def relay_all(checkpoint: Checkpoint) -> dict[str, Relaid]:
    """Return name -> tensor for all of a checkpoint in the layout that its files lack; {} where there is one layout."""
    architecture = checkpoint.architecture
    if architecture is None or not architecture.packing.parts:
        return {}
    packing, names = architecture.packing, set(checkpoint.names)
    shapes = {**{name: part.shape for name, part in packing.parts.items()}, **packing.packed}
    wanted = {name: TensorSpec("", shape) for name, shape in shapes.items() if name not in names}
    return relay(checkpoint, wanted, checkpoint.names)[0]


def relay(
    checkpoint: Checkpoint, wanted: Mapping[str, TensorSpec], unused: Sequence[str]
) -> tuple[dict[str, Relaid], set[str]]:
    """Find tensors that a checkpoint holds in another layout than they are wanted in.

    Parts of unlike dtypes make no tensor: it would have one dtype, and the bits of the others would be taken for it.

    Args:
        checkpoint: the checkpoint.
        wanted: name -> dtype and shape, of what no stored tensor stands for.
        unused: the stored tensors that stand for nothing yet.

    Returns:
        Name -> how it is made, and the stored tensors that go into these.
    """
    architecture = checkpoint.architecture
    if architecture is None or not architecture.packing.parts:
        return {}, set()
    parts, owners = architecture.packing.parts, architecture.packing.owners()
    name_map = architecture.name_map
    stored = name_map.match({*parts, *owners}, unused).found
    relaid: dict[str, Relaid] = {}
    for name, own in name_map.match(wanted, {*parts, *owners}).found.items():
        if own in parts and parts[own].owner in stored:
            packed_name = stored[parts[own].owner]
            spec = TensorSpec(checkpoint.spec(packed_name).dtype, parts[own].shape)
            relaid[name] = Relaid(spec, {packed_name: parts[own]}, True)
        elif own in owners and all(part in stored for part in owners[own]):
            sources = {stored[part]: parts[part] for part in owners[own]}
            dtypes = {checkpoint.spec(source).dtype for source in sources}
            if len(dtypes) == 1:
                relaid[name] = Relaid(TensorSpec(dtypes.pop(), wanted[name].shape), sources, False)
    return relaid, {source for item in relaid.values() for source in item.sources}
