"""Chains of patches: a patch, and one cut from the model that it gives, as one patch from the first one's base.

Assigning a chain in one step gives, bit for bit, what its patches give one after the other. What is written last stays,
and every hash becomes that of the first base's values: where two patches of the chain touch one tensor these values are
needed, from the base or from patches that store them. An entry that a later patch sets back to the base's bits is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from graft.arguments import checked
from graft.compose.base_values import BaseValues
from graft.compose.chain_links import rebase_sources, refuse_other_base, refuse_wrong_order
from graft.compose.compose_provenance import describe_chain
from graft.compose.sources import Region, Source, open_sources
from graft.errors import BudgetError, ConfigError, PatchError, PatchMismatchError
from graft.files.tensor_spec import TensorSpec
from graft.patch.format.reading import Entries
from graft.patch.mask import Indices, Mask
from graft.patch.skill_patch import Patch
from graft.tensors.dtypes import as_bits, assign, spec_of, take
from graft.tensors.growth import Growth
from graft.tensors.hashing import hash_values


@checked
def chain_patches(
    *patches: Patch | str | Path,
    base: str | Path | None = None,
    with_base_values: bool = False,
    labels: Sequence[str] | None = None,
) -> Patch:
    """Join patches of which each was cut from the model that those before it give: one patch from the first's base.

    A patch that takes a tuned model back to its base, in whole or in part, is the end of such a chain too. Whole
    tensors, such as heads, are those of the last patch that brings them.

    Args:
        patches: in order; in memory, or paths of patch files.
        base: the base of the first. It is needed where two patches touch one tensor, unless the patches store the
            values that they were cut from, or the base is the embedded encoder.
        with_base_values: store the base's values; they are stored anyway where every part does.
        labels: names of the parts in the provenance; by default file or task names.

    Raises:
        PatchMismatchError: a patch was not cut from what those before it give, or the first does not fit `base`.
        BudgetError: the chain gives the base back, so that nothing is left.
        PatchError: the base's values are needed and not known.
        PatchFormatError: a file that is no patch, or a mask.
        ConfigError: fewer than two patches.
    """
    if len(patches) < 2:
        raise ConfigError("a chain needs two patches or more")
    regions: Sequence[Region] = patches
    sources = open_sources(regions, labels, values=True)
    refuse_other_base(sources)
    if base is not None:
        refuse_wrong_order(sources, base)
    chain = _Chain(sources, BaseValues(rebase_sources(sources), base), with_base_values)
    for number, source in enumerate(sources):
        for name in sorted(source.specs):
            chain.follow(number, name)
        chain.replace_whole(source)
    return chain.finish()


@dataclass(frozen=True, eq=False)
class _Part:
    """What the chain so far sets in one tensor: indices, values, the hash of the base's values, and these if known."""

    spec: TensorSpec
    indices: Indices
    values: torch.Tensor
    base_hash: str
    base: torch.Tensor | None


class _Chain:
    """A chain in the making, patch by patch and tensor by tensor."""

    def __init__(self, sources: Sequence[Source], base_values: BaseValues, keep_base: bool) -> None:
        self._sources, self._base_values = sources, base_values
        self._keep_base = keep_base or all(source.has_base for source in sources)
        self._parts: dict[str, _Part] = {}
        self._whole: dict[str, torch.Tensor] = {}
        self._grown: dict[str, Growth] = {}
        self._restored = 0

    def follow(self, number: int, name: str) -> None:
        """Let one patch set its entries of one tensor.

        Raises:
            PatchMismatchError: the values there are not the ones that it was cut from.
        """
        source = self._sources[number]
        entries = source.read(name)
        assert entries.values is not None  # masks were refused on opening
        spec = self._refuse_other_spec(source, name)
        split = int(np.searchsorted(entries.indices, spec.numel)) if spec else 0  # from there on in whole tensors
        below, above = entries.indices[:split], torch.from_numpy(entries.indices[split:] - (spec.numel if spec else 0))
        stored = None if entries.base is None else entries.base[:split]
        part = self._parts.get(name)
        union = below if part is None else np.union1d(part.indices, below)
        before = self._base_at(name, union, part, Entries(below, None, stored)) if split else None
        self._refuse_other_values(number, name, below, above, before, union)
        if len(above):
            self._whole[name] = self._whole[name].clone()
            assign(self._whole[name], above, entries.values[split:])
        if spec is not None and split:
            own_hash = source.hashes[name] if part is None and not len(above) else None
            self._set(name, spec, union, Entries(below, entries.values[:split], None), before, own_hash)

    def replace_whole(self, source: Source) -> None:
        """Let one patch bring its whole tensors, and add its new rows behind those that are there."""
        for name, read in source.dense.items():
            growth, earlier = source.provenance.grown.get(name), self._grown.get(name)
            if growth is None:
                self._parts.pop(name, None)
                self._grown.pop(name, None)
                self._whole[name] = read()
            elif earlier is None:
                self._whole[name], self._grown[name] = read(), growth
            else:
                self._whole[name], self._grown[name] = _add_rows(name, source, self._whole[name], earlier, read())

    def finish(self) -> Patch:
        """Return the patch, whose provenance lists the chain.

        Raises:
            BudgetError: nothing is left.
        """
        parts = {name: part for name, part in sorted(self._parts.items()) if part.indices.size}
        if not parts:
            raise BudgetError(
                f"nothing is left of the chain: {self._restored:,} entries are the base's again, and no other is set"
            )
        base = None
        if self._keep_base:
            base = {name: self._base_values.require(name, part.base) for name, part in parts.items()}
        return Patch(
            Mask.of({name: part.spec for name, part in parts.items()}, {n: part.indices for n, part in parts.items()}),
            {name: part.values for name, part in parts.items()},
            {name: part.base_hash for name, part in parts.items()},
            replace(describe_chain(self._sources, self._restored), grown=self._grown),
            base,
            self._whole,
        )

    def _refuse_other_spec(self, source: Source, name: str) -> TensorSpec | None:
        """Return a tensor's spec in the base; None where the chain brings it whole."""
        spec, whole = source.specs[name], self._whole.get(name)
        if whole is None:
            return spec
        growth = self._grown.get(name)
        present = spec_of(whole)
        if growth is None:
            expected, in_base = present, None
        else:
            in_base = TensorSpec(present.dtype, (growth.start, *present.shape[1:]))
            expected = TensorSpec(present.dtype, (growth.start + present.shape[0], *present.shape[1:]))
        if expected != spec:
            raise PatchMismatchError(
                f"{source.label} does not chain: tensor {name!r} is {spec} there, and {expected} after those before it"
            )
        return in_base

    def _refuse_other_values(
        self, number: int, name: str, below: Indices, above: torch.Tensor, before: torch.Tensor | None, union: Indices
    ) -> None:
        source, part = self._sources[number], self._parts.get(name)
        if before is None and (part is not None or len(above)) and below.size:
            self._base_values.require(name, None)
        present = [] if before is None else [_overlay(before, union, part)[_positions(union, below)]]
        present += [take(self._whole[name], above)] if len(above) else []
        if present and hash_values(torch.cat(present)) != source.hashes[name]:
            k = below.size + len(above)
            before_it = " + ".join([self._base_values.name or "the base", *(s.label for s in self._sources[:number])])
            raise PatchMismatchError(
                f"{source.label} does not {'chain on' if number else 'fit'} {before_it}: tensor {name!r}: the values "
                f"at its {k:,} entries are not the ones that it was cut from"
            )

    def _set(
        self,
        name: str,
        spec: TensorSpec,
        union: Indices,
        entries: Entries,
        before: torch.Tensor | None,
        own_hash: str | None,
    ) -> None:
        part = self._parts.get(name)
        assert entries.values is not None
        if part is None:
            base_hash = own_hash or hash_values(self._base_values.require(name, before))
            self._parts[name] = _Part(spec, union, entries.values, base_hash, before)
            return
        known = self._base_values.require(name, before)
        values = torch.zeros(union.size, dtype=entries.values.dtype)
        values[_positions(union, part.indices)] = part.values
        values[_positions(union, entries.indices)] = entries.values
        in_both = np.isin(union, part.indices, assume_unique=True) & np.isin(union, entries.indices, assume_unique=True)
        restored = in_both & (as_bits(values) == as_bits(known)).numpy()
        self._restored += int(restored.sum())
        left = torch.from_numpy(np.flatnonzero(~restored))
        self._parts[name] = _Part(spec, union[~restored], values[left], hash_values(known[left]), known[left])

    def _base_at(self, name: str, union: Indices, part: _Part | None, entries: Entries) -> torch.Tensor | None:
        """Return the base's values at the union of what is set and one patch's entries; None where unknown."""
        if self._base_values.at_hand:
            return self._base_values.at(name, union, {})
        if part is None:
            return entries.base
        if part.base is None or (entries.base is None and union.size > part.indices.size):
            return None
        known = torch.zeros(union.size, dtype=part.values.dtype)
        if entries.base is not None:
            known[_positions(union, entries.indices)] = entries.base
        known[_positions(union, part.indices)] = part.base  # a later patch stores what this one set
        return known


def _positions(union: Indices, indices: Indices) -> torch.Tensor:
    return torch.from_numpy(np.searchsorted(union, indices))


def _overlay(before: torch.Tensor, union: Indices, part: _Part | None) -> torch.Tensor:
    """Return the values that the chain so far gives, from the base's."""
    if part is None:
        return before
    present = before.clone()
    present[_positions(union, part.indices)] = part.values
    return present


def _add_rows(
    name: str, source: Source, rows: torch.Tensor, growth: Growth, more: torch.Tensor
) -> tuple[torch.Tensor, Growth]:
    later = source.provenance.grown[name]
    if later.start != growth.start + len(rows):
        raise PatchMismatchError(
            f"{source.label} does not chain: tensor {name!r} has {later.start:,} rows there, and "
            f"{growth.start + len(rows):,} after those before it"
        )
    if bool(growth.tokens) != bool(later.tokens):
        raise PatchError(
            f"tensor {name!r}: {source.label} and those before it must both tell their new tokens, or none"
        )
    return torch.cat([rows, more.to(rows.dtype)]), Growth(growth.start, (*growth.tokens, *later.tokens))
