"""Composition of skills: the union of several patches, where a named rule decides every shared coordinate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from graft.arguments import checked
from graft.compose.base_values import BaseValues, require_one_base
from graft.compose.compose_provenance import OverlapTally, describe_composition
from graft.compose.source_names import unify_names
from graft.compose.sources import Region, Source, open_sources
from graft.errors import ConfigError, OverlapError
from graft.files.tensor_spec import TensorSpec
from graft.patch.format.reading import Entries
from graft.patch.mask import Indices, Mask
from graft.patch.overlap_rules import OverlapRule, join_entries
from graft.patch.registry import OVERLAP_RULES
from graft.patch.skill_patch import Patch
from graft.patch.stack import choose_growth, choose_whole
from graft.patch.torn_tensors import Touched, settle_torn
from graft.tensors.dtypes import same_bits
from graft.tensors.growth import Growth


@checked
def compose_patches(
    *patches: Patch | str | Path,
    on_overlap: OverlapRule = "error",
    base: str | Path | None = None,
    with_base_values: bool = False,
    labels: Sequence[str] | None = None,
) -> Patch:
    """Compose patches: the union of their entries in one.

    Files are read row by row: memory holds the result and one tensor's entries of the parts. The provenance of the
    result records the rule, and how many coordinates the parts share, in all and pair by pair.

    Args:
        patches: in memory, or paths of patch files; of one base.
        on_overlap: the rule for a coordinate at which patches have different bits (`graft.patch.overlap_rules`).
        base: the base model. It is needed where two patches touch one tensor, for the hash of the base's values there
            and for "sign" and "slerp", unless the patches store the base's values or are of the embedded encoder; and
            where they name its tensors in two ways.
        with_base_values: store the base's values; they are stored anyway where every part does.
        labels: names of the parts in the provenance; by default file or task names.

    Raises:
        OverlapError: patches disagree and the rule is "error", or it cannot be applied; or one brings a tensor whole
            that another changes, and the rule is neither "first" nor "last".
        PatchMismatchError: patches of different bases, or one that does not fit `base`; or, without it, they may call
            one tensor by two names.
        PatchError: the base's values are needed and not known.
        PatchFormatError: a file that is no patch, or a mask.
    """
    if on_overlap not in OVERLAP_RULES:
        raise ConfigError(f"on_overlap {on_overlap!r}: choose from {', '.join(OVERLAP_RULES)}")
    regions: Sequence[Region] = patches
    sources, torn = _settle(unify_names(open_sources(regions, labels, values=True), base), on_overlap)
    composer = _Composer(sources, on_overlap, BaseValues(sources, base), with_base_values)
    for name in sorted({name for source in sources for name in source.specs}):
        composer.add(name, {i: source.read(name) for i, source in enumerate(sources) if name in source.specs})
    composer.tally.whole += torn
    return composer.finish()


def _settle(sources: Sequence[Source], rule: OverlapRule) -> tuple[list[Source], list[str]]:
    """Let only one part give each tensor that one brings whole and another changes, by the rule.

    Returns:
        The parts without what they leave to others, and the names of the tensors that were decided upon.
    """
    left = settle_torn([Touched.of(source.specs, source.dense, source.provenance.grown) for source in sources], rule)
    settled = [_without(source, names) if names else source for source, names in zip(sources, left, strict=True)]
    return settled, sorted(frozenset[str]().union(*left))


def _without(source: Source, names: frozenset[str]) -> Source:
    grown = {name: growth for name, growth in source.provenance.grown.items() if name not in names}
    return replace(
        source,
        specs={name: spec for name, spec in source.specs.items() if name not in names},
        dense={name: read for name, read in source.dense.items() if name not in names},
        provenance=replace(source.provenance, grown=grown),
    )


class _Composer:
    """A composition in the making, tensor by tensor."""

    def __init__(self, sources: Sequence[Source], rule: OverlapRule, base_values: BaseValues, keep_base: bool) -> None:
        self._sources, self._rule, self._base_values = sources, rule, base_values
        self._keep_base = keep_base or all(source.has_base for source in sources)
        self.tally = OverlapTally(len(sources))
        self._specs: dict[str, TensorSpec] = {}
        self._indices: dict[str, Indices] = {}
        self._values: dict[str, torch.Tensor] = {}
        self._hashes: dict[str, str] = {}
        self._base: dict[str, torch.Tensor] = {}

    def add(self, name: str, entries_of: dict[int, Entries]) -> None:
        """Join the entries that the sources have in one tensor."""
        parts = [(entries.indices, _values_of(entries)) for entries in entries_of.values()]
        joined = join_entries(parts, self._rule, name, partial(self._base_at, name, entries_of))
        self.tally.add(list(entries_of), joined.join, joined.differing, joined.cancelled)
        union = joined.join.union
        base = self._base_values.at(name, union, entries_of)
        self._specs[name] = self._sources[next(iter(entries_of))].specs[name]
        self._indices[name], self._values[name] = union, joined.values
        self._hashes[name] = self._base_values.hash_at(name, union, entries_of, base)
        if self._keep_base:
            self._base[name] = self._base_values.require(name, base)

    def finish(self) -> Patch:
        """Return the composed patch, whose provenance lists its parts."""
        dense, grown = self._join_whole(), self._join_growths()
        identity = require_one_base(self._sources)
        provenance = describe_composition(self._sources, identity, self._rule, self.tally)
        provenance = replace(provenance, grown=grown)
        base = self._base if self._keep_base else None
        return Patch(Mask.of(self._specs, self._indices), self._values, self._hashes, provenance, base, dense)

    def _base_at(self, name: str, entries_of: dict[int, Entries], indices: torch.Tensor) -> torch.Tensor:
        """Return the base's values at shared coordinates, which every part that stores them has."""
        wanted = indices.numpy()
        at_wanted = (
            {i: _select(entries, wanted) for i, entries in entries_of.items()} if not self._base_values.at_hand else {}
        )
        return self._base_values.require(name, self._base_values.at(name, wanted, at_wanted))

    def _join_growths(self) -> dict[str, Growth]:
        grown: dict[str, Growth] = {}
        for source in self._sources:
            for name, growth in source.provenance.grown.items():
                grown[name] = choose_growth(grown[name], growth, self._rule, name) if name in grown else growth
        return grown

    def _join_whole(self) -> dict[str, torch.Tensor]:
        dense: dict[str, torch.Tensor] = {}
        for source in self._sources:
            for name, read in source.dense.items():
                new = read()
                old = dense.get(name)
                if old is not None and not (old.shape == new.shape and same_bits(old, new)):
                    self.tally.whole.append(name)
                try:
                    dense[name] = new if old is None else choose_whole(old, new, self._rule, name)
                except OverlapError as error:
                    raise OverlapError(f"{error} ({source.label} and one before it)") from error
        return dense


def _values_of(entries: Entries) -> torch.Tensor:
    assert entries.values is not None  # masks were refused on opening
    return entries.values


def _select(entries: Entries, wanted: Indices) -> Entries:
    """Select a source's entries that are among the wanted ones."""
    is_wanted = np.isin(entries.indices, wanted, assume_unique=True)
    positions = torch.from_numpy(np.flatnonzero(is_wanted))
    return Entries(entries.indices[is_wanted], None, None if entries.base is None else entries.base[positions])
