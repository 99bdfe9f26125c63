"""Notes on two checkpoints for a person: other sizes, another dtype, buffers; and how the patch treats them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from graft.files.tensor_spec import TensorSpec
from graft.sources.made_checkpoint import MadeCheckpoint
from graft.sources.opening import Model, open_pair
from graft.tensors.dtypes import DTYPE_NAMES
from graft.tensors.pair import CheckpointPair
from graft.tensors.scope import Scope
from graft.tensors.streaming import stream_tensors
from graft.tensors.vocabulary import tokens_beyond

SHOWN = 3  # tensors that a note names


@dataclass(frozen=True)
class Differences:
    """The differences of two checkpoints beside the values of their parameters.

    Attributes:
        left_out: tensors of another size or kind outside the scope, which the patch leaves out.
        replaced: heads of another size, which the patch brings whole.
        grown: tensors whose new rows the patch brings.
        rounded: entries in scope that differ by rounding to the tuned checkpoint's dtype alone; None where both have
            one dtype.
        buffers: buffer in scope -> how many of its entries changed.
        notes: the same in sentences; empty where there is nothing to say.
    """

    left_out: tuple[str, ...]
    replaced: tuple[str, ...]
    grown: tuple[str, ...]
    rounded: int | None
    buffers: Mapping[str, int]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, without those that are empty."""
        lists = {"left_out": self.left_out, "replaced": self.replaced, "notes": self.notes}
        plain: dict[str, Any] = {key: list(items) for key, items in lists.items() if items}
        return plain if self.rounded is None else plain | {"rounded": self.rounded}


def describe_differences(base: Model, tuned: Model, scope: str, *, whole: bool) -> Differences:
    """Describe what a person should know of two checkpoints before a patch is cut from them.

    Args:
        base, tuned: as for `localize_skill`.
        scope: the tensors that the patch is made of.
        whole: the patch keeps every changed entry; else a budget selects among them.

    Raises:
        MismatchError, CheckpointError, ConfigError: an input is refused; the line says which and why.
    """
    pair, tensors = open_pair(base, tuned), Scope(scope)
    rounding = [name for name in pair.names_in(tensors) if pair.rounds(name)]
    stored_whole = set(pair.whole_in(tensors))
    left_out = sorted({*pair.unlike, *(pair.grown - stored_whole)})
    replaced, grown = sorted(pair.replaced), sorted(pair.grown & stored_whole)
    rounded = _count_rounded(pair, rounding)
    rounding = rounding if rounded or pair.narrow is None else []
    buffers = {
        name: len(pair.changed(name)) for name in pair.names if name in pair.base.buffers and tensors.holds(name)
    }
    changed = {name: k for name, k in buffers.items() if k}
    notes = (
        *(pair.tuned.notes if isinstance(pair.tuned, MadeCheckpoint) else ()),
        _note_left_out(pair, left_out, scope),
        f"{_quote(replaced)}: a head of another size, replaced whole and counted apart" if replaced else None,
        _note_grown(pair, grown),
        _note_tokens(pair, grown),
        _note_dtype(pair, rounding, rounded, whole=whole),
        _note_buffers(changed, whole=whole),
    )
    n_rounded = rounded if rounding else None
    sentences = tuple(note for note in notes if note)
    return Differences(tuple(left_out), tuple(replaced), tuple(grown), n_rounded, changed, sentences)


def _count_rounded(pair: CheckpointPair, names: Sequence[str]) -> int:
    exact = pair.without_rounding()

    def count(name: str) -> int:
        return len(pair.changed(name)) - len(exact.changed(name))

    return sum(stream_tensors(count, names, pair.stored, "rounding"))


def _note_left_out(pair: CheckpointPair, names: Sequence[str], scope: str) -> str | None:
    if not names:
        return None
    sizes = [f"{name!r} ({_describe_sizes(pair, name)})" for name in names]
    more = "; --scope all would keep new rows" if pair.grown.intersection(names) else ""
    return f"left out, since they are of another size and outside the scope {scope}: {_join_shown(sizes)}{more}"


def _note_grown(pair: CheckpointPair, names: Sequence[str]) -> str | None:
    if not names:
        return None
    before, after = (spec.shape[0] for spec in _specs(pair, names[0]))
    return f"the vocabulary grew from {before:,} to {after:,} rows: the new rows of {_quote(names)} are kept whole"


def _note_tokens(pair: CheckpointPair, grown: Sequence[str]) -> str | None:
    """Note tokens whose rows the base had already, as padding: a patch cannot carry them."""
    end = min((pair.base.spec(name).shape[0] for name in grown), default=math.inf)
    new = [token for token, number in tokens_beyond(pair.base.path, pair.tuned.path).items() if number < end]
    if not new:
        return None
    return (
        f"the tuned tokenizer has {len(new):,} tokens that the base's lacks in rows that the base has ({_quote(new)}): "
        "a patch does not carry them, use the tuned model's tokenizer"
    )


def _note_dtype(pair: CheckpointPair, names: Sequence[str], n: int, *, whole: bool) -> str | None:
    if not names:
        return None
    left, right = (spec.dtype for spec in _specs(pair, names[0]))
    return note_rounding(left, right, pair.narrow, n, whole=whole)


def note_rounding(left: str, right: str, narrow: torch.dtype | None, n: int, *, whole: bool) -> str:
    """Say what becomes of n entries that differ by rounding alone.

    Args:
        left, right: the base's dtype, and the tuned checkpoint's.
        narrow: as in `CheckpointPair`.
        n: the entries.
        whole: as in `describe_differences`.
    """
    if narrow is not None:
        right = f"{right} that holds {DTYPE_NAMES[narrow]} values alone"
    if not n:
        return f"the base is {left}, the tuned checkpoint {right}: its values are rounded to {left}"
    fate = "kept, so that applying gives the tuned bits" if whole else "taken as not moved"
    return f"the base is {left}, the tuned checkpoint {right}: {n:,} entries differ by rounding alone and are {fate}"


def _note_buffers(changed: Mapping[str, int], *, whole: bool) -> str | None:
    if not changed:
        return None
    fate = "are kept, counted apart" if whole else "are left out: a budget selects parameters alone"
    return f"{sum(changed.values()):,} changed entries of buffers ({_quote(changed)}) {fate}"


def _specs(pair: CheckpointPair, name: str) -> tuple[TensorSpec, TensorSpec]:
    return pair.base.spec(name), pair.tuned.spec(pair.names[name])


def _describe_sizes(pair: CheckpointPair, name: str) -> str:
    if name in pair.unlike:
        return pair.unlike[name].partition(" has shape ")[2] or "another kind of number"
    return " to ".join(str(list(spec.shape)) for spec in _specs(pair, name))


def _quote(names: Iterable[str]) -> str:
    return _join_shown([repr(name) for name in names])


def _join_shown(items: list[str]) -> str:
    return ", ".join(items[:SHOWN]) + (f" and {len(items) - SHOWN:,} more" if len(items) > SHOWN else "")
