"""Explanation: what a mask is made of, in numbers; `graft.explain.sentences` puts it into words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from graft.explain.activations import Activations
from graft.explain.changed_texts import ChangedTexts
from graft.explain.dimensions import (
    Commonest,
    TensorEntries,
    add_by_layer,
    count_entries_of,
    find_commonest,
)
from graft.explain.residual import Role, find_width, place_tensor
from graft.explain.sharing import Sharing
from graft.patch.mask import Indices, Mask
from graft.patch.summary import entries_by_layer, natural_key
from graft.specs.reader import to_plain

INTO: tuple[Role, ...] = ("writes", "scales", "embeds")
MOST = 16  # dimensions of the stream that are listed


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a mask is made of.

    Attributes:
        mask: by the base's own names.
        width: of the residual stream.
        tensors: what the mask has of each, layers in their order.
        tokens: the commonest rows of word embeddings, as (token or None, row, entries); empty without a base.
        dense: name -> weights of whole tensors, which are no entries.
        activations: of the inputs on a task's texts, where there was a task.
        texts: those that the patch changes most, where there was a task, and values.
    """

    mask: Mask
    width: int
    tensors: tuple[TensorEntries, ...]
    tokens: tuple[tuple[str | None, int, int], ...] = ()
    dense: Mapping[str, int] | None = None
    activations: Activations | None = None
    texts: ChangedTexts | None = None

    @property
    def k(self) -> int:
        """Number of entries."""
        return len(self.mask)

    def of_role(self, *roles: Role) -> list[TensorEntries]:
        """Return the tensors of some roles."""
        return [tensor for tensor in self.tensors if tensor.place.role in roles]

    @property
    def readers(self) -> list[TensorEntries]:
        """Matrices that read the residual stream."""
        return self.of_role("reads")

    @cached_property
    def commonest(self) -> Commonest | None:
        """The commonest input dimensions of the readers."""
        return find_commonest(self.readers)

    def sharing(self, side: str, *roles: Role) -> Sharing:
        """Join the sharing of the "inputs" or "outputs" of matrices, of some roles or of all."""
        chosen = (tensor for tensor in self.tensors if not roles or tensor.place.role in roles)
        sides = (getattr(tensor, side) for tensor in chosen if tensor.place.kind == "matrix")
        return sum((side.sharing for side in sides if side is not None), Sharing())

    def count_kind(self, *kinds: str) -> int:
        """Return entries in tensors of some kinds."""
        return sum(tensor.k for tensor in self.tensors if tensor.place.kind in kinds)

    @property
    def matrices(self) -> list[TensorEntries]:
        """Matrices of two axes, for which a LoRA has factors."""
        return [tensor for tensor in self.tensors if tensor.place.kind == "matrix" and len(tensor.spec.shape) == 2]

    @property
    def factor_bytes(self) -> int:
        """Bytes of the matrices' factors as a LoRA of their ranks, in float32, which PEFT keeps them in."""
        return sum(4 * (tensor.rank or 0) * sum(tensor.spec.shape) for tensor in self.matrices)

    @property
    def largest_rank(self) -> int:
        """Largest rank of a matrix; 0 without any."""
        return max((tensor.rank or 0 for tensor in self.matrices), default=0)

    def layers_of(self, *roles: Role) -> dict[str, Indices]:
        """Return layer -> (width,) entries by dimension of the stream."""
        return add_by_layer(self.tensors, roles)

    @cached_property
    def stream(self) -> list[int]:
        """The dimensions of the stream that most entries read, or, without readers, that most lie in."""
        layers = self.layers_of("reads") or self.layers_of(*INTO)
        total = np.sum([*layers.values(), np.zeros(self.width, np.int64)], axis=0)
        order = np.argsort(-total, kind="stable")[:MOST]
        return [int(i) for i in order if total[i]]

    def to_json(self) -> dict[str, Any]:
        """Return plain values; what there is not is left out."""
        sharing = {side: self.sharing(side).to_json() for side in ("inputs", "outputs")}
        of_readers = {side: self.sharing(side, "reads").to_json() for side in ("inputs", "outputs")}
        optional = {"commonest_inputs": self.commonest, "activations": self.activations, "texts": self.texts}
        return {
            "k": self.k,
            "width": self.width,
            "kinds": {kind: n for kind in _KINDS if (n := self.count_kind(kind))},
            "roles": {role: n for role in _ROLES if (n := sum(tensor.k for tensor in self.of_role(role)))},
            "sharing": {"matrices": sharing, "readers": of_readers},
            "stream": [self._describe(dimension) for dimension in self.stream],
            "largest_rank": self.largest_rank,
            "factor_bytes": self.factor_bytes,
            **{key: to_plain(value) for key, value in optional.items() if value is not None},
            **({"tokens": [{"token": t, "row": row, "k": k} for t, row, k in self.tokens]} if self.tokens else {}),
            **({"dense": dict(self.dense)} if self.dense else {}),
            "layers": entries_by_layer(self.mask),
            "tensors": {tensor.name: tensor.to_json() for tensor in self.tensors},
        }

    def _describe(self, dimension: int) -> dict[str, Any]:
        reads = {layer: int(counts[dimension]) for layer, counts in self.layers_of("reads").items()}
        into = sum(int(counts[dimension]) for counts in self.layers_of(*INTO).values())
        in_tensors = sum(bool(tensor.stream is not None and tensor.stream[dimension]) for tensor in self.readers)
        plain = {"dimension": dimension, "reads": sum(reads.values()), "into": into}
        return plain | {"in_readers": in_tensors, "of_readers": len(self.readers), "layers": reads}


_KINDS = ("matrix", "embedding", "norm", "bias", "other")
_ROLES: tuple[Role, ...] = ("reads", "writes", "embeds", "scales", "within", "unknown")


def explain_mask(mask: Mask, *, width: int | None = None, transposed: Mapping[str, bool] | None = None) -> Explanation:
    """Count what a mask is made of; no weight is read.

    Args:
        mask: the mask.
        width: of the residual stream; told by the names and shapes of the mask's tensors where absent.
        transposed: weight -> whether it is stored as (in, out), as far as the base's modules tell.
    """
    shapes, guessed = {name: mask.specs[name].shape for name in mask}, width is None
    width = find_width(None, shapes) if width is None else width
    places = {name: place_tensor(name, shapes[name], width, transposed or {}, guessed=guessed) for name in mask}
    names = sorted(mask, key=natural_key)
    tensors = tuple(count_entries_of(name, mask[name], mask.specs[name], places[name]) for name in names)
    return Explanation(mask, width, tensors)
