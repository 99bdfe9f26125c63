"""Tensors of a checkpoint as another file of the same architecture lists them: expert by expert, or packed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from graft.files.tensor_spec import TensorSpec
from graft.tensors.dtypes import TORCH_DTYPES
from graft.tensors.names import match_names
from graft.tensors.packed import Part

if TYPE_CHECKING:
    from graft.tensors.checkpoint import Checkpoint


@dataclass(frozen=True)
class Relaid:
    """A tensor made of parts of stored ones, or a part of one.

    Attributes:
        spec: its dtype and shape.
        pieces: stored tensor -> where it lies in this one; or, for a `cut`, where this one lies in it.
        cut: whether it is a part of one stored tensor.
    """

    spec: TensorSpec
    pieces: Mapping[str, Part]
    cut: bool

    def read(self, checkpoint: Checkpoint) -> torch.Tensor:
        """A view of the mapped file for a part, else put together in memory."""
        if self.cut:
            return next(part.of(checkpoint.read(stored)) for stored, part in self.pieces.items())
        whole = torch.empty(self.spec.shape, dtype=TORCH_DTYPES[self.spec.dtype])
        for stored, part in self.pieces.items():
            part.of(whole).copy_(checkpoint.read(stored))
        return whole

    def locate(self, indices: torch.Tensor) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
        """Where (k,) flat indices of this tensor are stored: a tensor, which of the indices, and theirs in it."""
        if self.cut:
            return [(stored, torch.arange(len(indices)), part.locate(indices)) for stored, part in self.pieces.items()]
        return [(stored, *part.find(indices)) for stored, part in self.pieces.items()]


def relay_all(checkpoint: Checkpoint) -> dict[str, Relaid]:
    """All tensors of a checkpoint in the layout that its files do not have; none where there is one layout."""
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
    rules = {"prefix": architecture.prefix, "rename": architecture.rename}
    stored = match_names({*parts, *owners}, unused, **rules).found  # type: ignore[arg-type]
    made: dict[str, Relaid] = {}
    for name, own in match_names(wanted, {*parts, *owners}, **rules).found.items():  # type: ignore[arg-type]
        if own in parts and parts[own].owner in stored:
            place = stored[parts[own].owner]
            made[name] = Relaid(TensorSpec(checkpoint.spec(place).dtype, parts[own].shape), {place: parts[own]}, True)
        elif own in owners and all(part in stored for part in owners[own]):
            pieces = {stored[part]: parts[part] for part in owners[own]}
            dtype = checkpoint.spec(next(iter(pieces))).dtype
            made[name] = Relaid(TensorSpec(dtype, wanted[name].shape), pieces, False)
    return made, {place for relaid in made.values() for place in relaid.pieces}
