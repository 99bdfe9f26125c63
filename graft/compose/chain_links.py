"""Links of a chain: whether each patch can have been cut from what those before it give, as headers tell."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from graft.compose.sources import Source
from graft.errors import PatchMismatchError
from graft.files.location import locate
from graft.files.tensor_spec import TensorSpec
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.hashing import digest_of


def refuse_other_base(sources: Sequence[Source]) -> None:
    """Refuse a patch whose base is known to be another model than those before it give.

    Raises:
        PatchMismatchError: it was cut from the same base as the one before it, or from a model with another digest than
            that one states as its result.
    """
    for before, source in itertools.pairwise(sources):
        own, stated = source.provenance.base.digest, before.provenance.result
        if own is not None and stated is not None and own != stated:
            raise PatchMismatchError(
                f"{source.label} does not chain on {before.label}: it was cut from a model with the digest "
                f"{own[:16]}…, and {before.label} states the result {stated[:16]}…"
            )
        if own is not None and own == before.provenance.base.digest:
            raise PatchMismatchError(
                f"{source.label} does not chain on {before.label}: both are of one base: compose them without --chain"
            )


def refuse_wrong_order(sources: Sequence[Source], base: str | Path) -> None:
    """Refuse a chain in which a later patch, and not the first, was cut from the base itself.

    Patches that share no weight land in either order, so that values alone do not tell.

    Raises:
        PatchMismatchError: naming the patch that comes first.
        CheckpointError: the base cannot be found or read.
    """
    digest = digest_of(Checkpoint.open(locate(base).path))
    own = [source.label for source in sources if source.provenance.base.digest == digest]
    if own and sources[0].provenance.base.digest not in (None, digest):
        raise PatchMismatchError(
            f"{sources[0].label} does not fit {base}: it was cut from another model, and {own[0]} from this one: "
            f"{own[0]} comes first in the chain"
        )


def result_of(sources: Sequence[Source]) -> str | None:
    """Return the digest that a chain gives, where every link is known by its digest; else None."""
    links = itertools.pairwise(sources)
    is_known = all(before.provenance.result == source.provenance.base.digest is not None for before, source in links)
    return sources[-1].provenance.result if is_known else None


def rebase_sources(sources: Sequence[Source]) -> list[Source]:
    """Describe the sources as if all were of the first one's base: its identity, and its tensors in its shapes."""
    first = sources[0].provenance.base
    starts: dict[str, int | None] = {}  # of tensors that a patch before brings whole: the base's rows, None for none
    rebased = []
    for source in sources:
        specs = {name: _in_base(spec, starts[name]) if name in starts else spec for name, spec in source.specs.items()}
        known = {name: spec for name, spec in specs.items() if spec is not None}
        rebased.append(replace(source, specs=known, provenance=replace(source.provenance, base=first)))
        for name in source.dense:
            growth = source.provenance.grown.get(name)
            if growth is None:
                starts[name] = None
            else:
                starts.setdefault(name, growth.start)
    return rebased


def _in_base(spec: TensorSpec, start: int | None) -> TensorSpec | None:
    return None if start is None else TensorSpec(spec.dtype, (start, *spec.shape[1:]))
