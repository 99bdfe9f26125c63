"""The base that patches share, and its values where they are needed.

A patch file holds a hash of the base's values under its mask (format 1), and the hash of a union or a difference of
masks cannot be computed from the hashes of its parts. So where the entries of a tensor are joined or split up, the
base's values are needed: from the checkpoint, or from the patches where they store them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from graft.compose.sources import Source
from graft.errors import PatchError, PatchMismatchError
from graft.files.embedded import find_named, is_at_hand
from graft.files.location import locate
from graft.files.tensor_spec import TensorSpec
from graft.patch.compatibility import Target, check_specs
from graft.patch.format.reading import Entries
from graft.patch.mask import Indices
from graft.patch.merge import StoredTarget
from graft.patch.provenance import BaseIdentity
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import TORCH_DTYPES, as_bits, take
from graft.tensors.hashing import hash_values
from graft.tensors.names import NameMap


def require_one_base(sources: Sequence[Source]) -> BaseIdentity:
    """Find the base that all sources belong to, as far as they name it; masks and patches made by hand may not.

    Raises:
        PatchMismatchError: two name different bases, or hold one tensor in different shapes or, as patches, dtypes.
    """
    for key, noun in (("digest", "digest"), ("n_parameters", "parameters")):
        known = [source for source in sources if getattr(source.provenance.base, key)]
        for other in known[1:]:
            left, right = (getattr(item.provenance.base, key) for item in (known[0], other))
            if left != right:
                raise PatchMismatchError(
                    f"{known[0].label} and {other.label} are of different bases: {_base_name(known[0])} "
                    f"({_abbreviate(left)} {noun}) and {_base_name(other)} ({_abbreviate(right)})"
                )
    join_specs(sources)
    bases = [source.provenance.base for source in sources]
    return max(bases, key=lambda base: (base.digest is not None, base.id is not None, base.n_parameters > 0))


def join_specs(sources: Sequence[Source]) -> dict[str, TensorSpec]:
    """Return dtype and shape of every tensor that a source touches.

    Raises:
        PatchMismatchError: two hold one in different shapes or, as patches, dtypes.
    """
    first_with: dict[str, Source] = {}
    for source in sources:
        for name, spec in source.specs.items():
            other = first_with.setdefault(name, source)
            if spec.shape != other.specs[name].shape:
                raise _mismatch(name, other, source)
            if spec.dtype != other.specs[name].dtype and source.kind == other.kind == "patch":
                raise _mismatch(name, other, source)
    return {name: source.specs[name] for name, source in sorted(first_with.items())}


def _mismatch(name: str, left: Source, right: Source) -> PatchMismatchError:
    return PatchMismatchError(
        f"tensor {name!r} is {left.specs[name]} in {left.label} and {right.specs[name]} in {right.label}"
    )


def _base_name(source: Source) -> str:
    base = source.provenance.base
    return str(base.id or base.name or "unknown")


def _abbreviate(value: object) -> str:
    return f"{value[:16]}…" if isinstance(value, str) else f"{value:,}"


def check_base(source: Source, base: str | Path) -> None:
    """Compare a patch with a base at all of its entries; a mask by names and shapes alone, since it knows no values.

    Raises:
        PatchMismatchError: it does not fit.
        CheckpointError: the base cannot be found or read.
    """
    if source.kind == "mask":
        target = StoredTarget(Checkpoint.open(locate(base).path))
        check_specs(source.specs, {}, (), target, cast=True).require(f"{base} ({source.label})")
        return
    values = BaseValues([source], base)
    for name in source.specs:
        entries = source.read(name)
        values.at(name, entries.indices, {0: entries})


class BaseValues:
    """The base's values at entries of patches.

    Args:
        sources: the patches, of one base.
        base: the base model, where it is at hand. Without it the patches' stored values serve, and the embedded
            encoder is found by its name.

    Raises:
        PatchMismatchError: the base lacks a tensor of the patches, or has it in another shape or dtype.
        CheckpointError: the base cannot be found or read.
    """

    def __init__(self, sources: Sequence[Source], base: str | Path | None) -> None:
        self._sources = sources
        identity = require_one_base(sources)
        self.name = str(base or identity.id or identity.name or "")
        reference = base if base is not None else find_embedded(identity)
        self._target: Target | None = None
        self._names: Mapping[str, str] = {}
        if reference is not None:
            specs = join_specs([source for source in sources if source.kind == "patch"])
            self._target = _target_of(Checkpoint.open(locate(reference).path), specs)
            groups = (source.provenance.tied for source in sources if source.provenance.tied)
            tied = () if isinstance(self._target, _SameNames) else next(groups, ())
            self._names = check_specs(specs, {}, tied, self._target).require(str(reference)).names

    @property
    def at_hand(self) -> bool:
        """True where the base itself is at hand, so that every value can be read."""
        return self._target is not None

    def at(self, name: str, union: Indices, entries_of: Mapping[int, Entries]) -> torch.Tensor | None:
        """Return the base's (k,) values at the union of the sources' entries in a tensor; None where unknown.

        Args:
            name: the tensor.
            union: (k,) int64 sorted, every entry of `entries_of` among them.
            entries_of: number of the source -> its entries.

        Raises:
            PatchMismatchError: the values are not those that a patch was cut from.
        """
        return (
            self._join_stored(name, union, entries_of) if self._target is None else self._read(name, union, entries_of)
        )

    def hash_at(self, name: str, union: Indices, entries_of: Mapping[int, Entries], values: torch.Tensor | None) -> str:
        """Return the hash of the base's values at the union: a part's own where it has all of these entries.

        Raises:
            PatchError: it cannot be computed without the base.
            PatchMismatchError: parts with the same entries have different hashes.
        """
        hashes = {
            self._sources[i].hashes[name]: self._sources[i].label
            for i, entries in entries_of.items()
            if entries.indices.size == union.size
        }
        if len(hashes) > 1:
            raise PatchMismatchError(f"tensor {name!r}: {' and '.join(hashes.values())} are of different bases")
        if hashes:
            return str(next(iter(hashes)))
        return hash_values(self.require(name, values))

    def require(self, name: str, values: torch.Tensor | None) -> torch.Tensor:
        """Return the values, or refuse with advice on how to give them.

        Raises:
            PatchError: they are not known.
        """
        if values is None:
            which = f" ({self.name})" if self.name else ""
            raise PatchError(
                f"tensor {name!r}: the base's values are needed there and the patches do not store them: "
                f"give --base MODEL{which}, or cut the patches --with-base-values"
            )
        return values

    def _read(self, name: str, union: Indices, entries_of: Mapping[int, Entries]) -> torch.Tensor:
        assert self._target is not None
        values = self._target.gather(self._names[name], torch.tensor(union))  # a copy: a mask is read-only
        for i, entries in entries_of.items():
            own_values = values[torch.from_numpy(np.searchsorted(union, entries.indices))]
            if hash_values(own_values) != self._sources[i].hashes[name]:
                raise PatchMismatchError(
                    f"{self._sources[i].label} does not fit {self.name}: tensor {name!r}: the values at its "
                    f"{len(own_values):,} entries are not the base's"
                )
        return values

    def _join_stored(self, name: str, union: Indices, entries_of: Mapping[int, Entries]) -> torch.Tensor | None:
        # Example: patches with the entries 1 4 and 4 7, of the union 1 4 7, store base values for its positions 0 1 and
        # 1 2. At position 1 they must agree bit for bit; then all three are known. Did the second store none, 7 would
        # be unknown, and so the whole answer: a hash needs every value.
        dtype = TORCH_DTYPES[self._sources[next(iter(entries_of))].specs[name].dtype]
        bits = as_bits(torch.zeros(union.size, dtype=dtype))
        known = torch.zeros(union.size, dtype=torch.bool)
        for i, entries in entries_of.items():
            if entries.base is None:
                continue
            positions = torch.from_numpy(np.searchsorted(union, entries.indices))
            again = known[positions]  # entries that a patch before this one stored too
            if not torch.equal(bits[positions][again], as_bits(entries.base)[again]):
                raise PatchMismatchError(
                    f"tensor {name!r}: {self._sources[i].label} stores other base values than the patches before it: "
                    "they are of different bases"
                )
            bits[positions], known[positions] = as_bits(entries.base), True
        return bits.view(dtype) if bool(known.all()) else None


class _SameNames:
    """A base that lists every tensor under the patches' own names, so that its model class need not be known."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.names, self.name_map = checkpoint.names, NameMap()
        self.can_resize = True
        self._checkpoint = checkpoint

    def spec(self, name: str) -> TensorSpec:
        """Return a tensor's dtype and shape in the file."""
        return self._checkpoint.spec(name)

    def owner(self, name: str) -> str:
        """Return the name itself: a file has each tensor once."""
        return name

    def gather(self, name: str, indices: torch.Tensor) -> torch.Tensor:
        """Return a tensor's values at flat indices (n,) int64."""
        return take(self._checkpoint.read(name), indices)


def _target_of(checkpoint: Checkpoint, names: Collection[str]) -> Target:
    return _SameNames(checkpoint) if set(names) <= set(checkpoint.names) else StoredTarget(checkpoint)


def find_embedded(identity: BaseIdentity) -> str | None:
    """Find the embedded model that the patches name, where it is at hand."""
    entry = find_named(identity.name) if identity.id is None else None
    return entry.name if entry is not None and is_at_hand(entry) else None
