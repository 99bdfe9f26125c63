"""Regions of one base under one set of names, so that a tensor is the same tensor in each of them.

Masks of a live model may call a tensor `bert.encoder.layer.0…` that the base's files, and patches of it, call
`encoder.layer.0…`. The base tells; without it such names are refused, since regions compared by unlike names share
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from graft.compose.sources import Source
from graft.errors import PatchMismatchError
from graft.files.location import locate
from graft.patch.compatibility import check_specs
from graft.patch.format.reading import Entries
from graft.patch.merge import StoredTarget
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.names import unwrap_name


def unify_names(sources: Sequence[Source], base: str | Path | None, *, keep_first: bool = False) -> list[Source]:
    """Return regions by one set of names: the base's, or without it their own, where none seems to have two names.

    Args:
        sources: patches and masks.
        base: their base.
        keep_first: the first keeps its own names, and the others go by these where they name its tensors.

    Raises:
        PatchMismatchError: the base lacks a tensor, or has it in another shape or, for a patch, dtype; or without it, a
            name in one is a name in another behind a prefix or in a wrapper, and no region has both.
        CheckpointError: the base cannot be found or read.
    """
    if base is None:
        _refuse_other_names(sources)
        return list(sources)
    return _place_sources(sources, base, keep_first=keep_first)


def _place_sources(sources: Sequence[Source], base: str | Path, *, keep_first: bool) -> list[Source]:
    checkpoint = Checkpoint.open(locate(base).path)
    if set[str]().union(*(source.specs for source in sources)) <= set(checkpoint.names):
        return list(sources)
    target = StoredTarget(checkpoint)
    names = [_names_in(target, source, str(base)) for source in sources]
    if keep_first:
        own = {placed: name for name, placed in names[0].items()}
        names = [{name: own.get(placed, placed) for name, placed in of_source.items()} for of_source in names]
        names[0] = {name: name for name in names[0]}
    return [_rename(source, of_source) for source, of_source in zip(sources, names, strict=True)]


def _refuse_other_names(sources: Sequence[Source]) -> None:
    """Refuse regions that seem to call one tensor by two names, which only the base can tell.

    A base's digest takes in its names: regions that were all made from one digest call each tensor the same.
    """
    if None not in (digests := {source.provenance.base.digest for source in sources}) and len(digests) == 1:
        return
    holders: dict[str, set[int]] = {}
    for i, source in enumerate(sources):
        for name in source.specs:
            holders.setdefault(name, set()).add(i)
    for name in sorted(holders):
        bare = name.partition(".")[2]
        for other in (bare if "." in bare else "", unwrap_name(name)):
            if other == name or other not in holders or holders[name] & holders[other]:
                continue
            first, second = sources[min(holders[other])], sources[min(holders[name])]
            if first.specs[other].shape == second.specs[name].shape:
                raise PatchMismatchError(
                    f"{first.label} names a tensor {other!r} and {second.label} {name!r}, which may be one: "
                    "give --base MODEL, which tells"
                )


def _names_in(target: StoredTarget, source: Source, base: str) -> dict[str, str]:
    """Return the base's name for each of a region's tensors; a whole tensor that the base lacks keeps its own."""
    found = check_specs(source.specs, {}, source.provenance.tied, target, cast=source.kind == "mask")
    dense = {name: name for name in source.dense} | target.name_map.match(source.dense, target.names).found
    return dense | dict(found.require(f"{base} ({source.label})").names)


def _rename(source: Source, names: Mapping[str, str]) -> Source:
    origin, own = source.provenance, dict[str, list[str]]()
    for name in source.specs:
        own.setdefault(names[name], []).append(name)

    def read(name: str) -> Entries:
        """Read a tensor's entries under each of its own names."""
        first, *others = own[name]
        entries = source.read(first)
        for other in others:  # two names of a tied tensor become one
            entries = Entries(np.union1d(entries.indices, source.read(other).indices))
        return entries

    counts = {name: source.counts[group[0]] if len(group) == 1 else read(name).indices.size
              for name, group in own.items()}  # fmt: skip
    return replace(
        source,
        specs={name: source.specs[group[0]] for name, group in own.items()},
        counts=counts,
        hashes={name: source.hashes[group[0]] if len(group) == 1 else None for name, group in own.items()},
        dense={names[name]: read_whole for name, read_whole in source.dense.items()},
        provenance=replace(origin, grown={names[name]: growth for name, growth in origin.grown.items()}),
        read=read,
    )
