"""What is odd about two checkpoints and must be said: other sizes, another dtype, buffers; and what becomes of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.files.location import locate
from graft.files.tensor_spec import TensorSpec
from graft.tensors.dtypes import DTYPE_NAMES
from graft.tensors.pair import CheckpointPair
from graft.tensors.scope import Scope
from graft.tensors.streaming import stream_tensors
from graft.tensors.vocabulary import tokens_beyond

SHOWN = 3  # tensors that a note names


@dataclass(frozen=True)
class Differences:
    """What two checkpoints differ in beside the values of their parameters.

    Attributes:
        left_out: tensors of another size or kind outside the scope, in the patch neither in part nor whole.
        replaced: heads of another size, which the patch brings whole.
        grown: tensors whose new rows the patch brings.
        rounded: entries in scope that differ by rounding to the tuned checkpoint's dtype alone; None where it is one.
        buffers: buffer in scope -> how many of its entries changed.
        notes: all that in words; empty where there is nothing to say.
    """

    left_out: tuple[str, ...]
    replaced: tuple[str, ...]
    grown: tuple[str, ...]
    rounded: int | None
    buffers: Mapping[str, int]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, where there is something to say."""
        lists = {"left_out": self.left_out, "replaced": self.replaced, "notes": self.notes}
        found: dict[str, Any] = {key: list(items) for key, items in lists.items() if items}
        return found if self.rounded is None else found | {"rounded": self.rounded}


def describe_differences(base: str | Path, tuned: str | Path, scope: str, *, whole: bool) -> Differences:
    """Look for what must be said of two checkpoints.

    Args:
        base, tuned: local folders, the embedded encoder or Hub ids.
        scope: which tensors a patch is made of.
        whole: whether it keeps every changed entry; else a budget selects among those that moved.

    Raises:
        MismatchError, CheckpointError, ConfigError.
    """
    pair, where = CheckpointPair.open(locate(base).path, locate(tuned).path), Scope(scope)
    rounding = [name for name in pair.names_in(where) if pair.rounds(name)]
    brought = set(pair.whole_in(where))
    left_out = sorted({*pair.unlike, *(pair.grown - brought)})
    replaced, grown = sorted(pair.replaced), sorted(pair.grown & brought)
    rounded = _count_rounded(pair, rounding)
    rounding = rounding if rounded or pair.narrow is None else []
    buffers = {name: len(pair.changed(name)) for name in pair.names if name in pair.base.buffers and where.holds(name)}
    changed = {name: k for name, k in buffers.items() if k}
    notes = (
        _left_out(pair, left_out, scope),
        f"{_named(replaced)}: a head of another size, replaced whole and counted apart" if replaced else None,
        _grown(pair, grown),
        _of_tokens(pair, grown),
        _of_dtype(pair, rounding, rounded, whole=whole),
        _of_buffers(changed, whole=whole),
    )
    said = tuple(note for note in notes if note)
    counted = rounded if rounding else None
    return Differences(tuple(left_out), tuple(replaced), tuple(grown), counted, changed, said)


def _count_rounded(pair: CheckpointPair, names: Sequence[str]) -> int:
    settled = pair.without_rounding()

    def count(name: str) -> int:
        return len(pair.changed(name)) - len(settled.changed(name))

    return sum(stream_tensors(count, names, pair.stored, "rounding"))


def _left_out(pair: CheckpointPair, names: Sequence[str], scope: str) -> str | None:
    if not names:
        return None
    sizes = [f"{name!r} ({_sizes(pair, name)})" for name in names]
    more = "; --scope all would keep new rows" if pair.grown.intersection(names) else ""
    return f"left out, since they are of another size and outside the scope {scope}: {_joined(sizes)}{more}"


def _grown(pair: CheckpointPair, names: Sequence[str]) -> str | None:
    if not names:
        return None
    before, after = (spec.shape[0] for spec in _specs(pair, names[0]))
    return f"the vocabulary grew from {before:,} to {after:,} rows: the new rows of {_named(names)} are kept whole"


def _of_tokens(pair: CheckpointPair, grown: Sequence[str]) -> str | None:
    """Tokens that got rows which the base had already, as padding: no patch can say so."""
    end = min((pair.base.spec(name).shape[0] for name in grown), default=math.inf)
    new = [token for token, number in tokens_beyond(pair.base.path, pair.tuned.path).items() if number < end]
    if not new:
        return None
    return (
        f"the tuned tokenizer has {len(new):,} tokens that the base's lacks in rows that the base has ({_named(new)}): "
        "a patch does not carry them, use the tuned model's tokenizer"
    )


def _of_dtype(pair: CheckpointPair, names: Sequence[str], n: int, *, whole: bool) -> str | None:
    if not names:
        return None
    left, right = (spec.dtype for spec in _specs(pair, names[0]))
    if pair.narrow is not None:
        right = f"{right} that holds {DTYPE_NAMES[pair.narrow]} values alone"
    if not n:
        return f"the base is {left}, the tuned checkpoint {right}: its values are rounded to {left}"
    fate = "kept, so that applying gives the tuned bits" if whole else "taken as not moved"
    return f"the base is {left}, the tuned checkpoint {right}: {n:,} entries differ by rounding alone and are {fate}"


def _of_buffers(changed: Mapping[str, int], *, whole: bool) -> str | None:
    if not changed:
        return None
    fate = "are kept, counted apart" if whole else "are left out: a budget selects parameters alone"
    return f"{sum(changed.values()):,} changed entries of buffers ({_named(changed)}) {fate}"


def _specs(pair: CheckpointPair, name: str) -> tuple[TensorSpec, TensorSpec]:
    return pair.base.spec(name), pair.tuned.spec(pair.names[name])


def _sizes(pair: CheckpointPair, name: str) -> str:
    if name in pair.unlike:
        return pair.unlike[name].partition(" has shape ")[2] or "another kind of number"
    return " to ".join(str(list(spec.shape)) for spec in _specs(pair, name))


def _named(names: Iterable[str]) -> str:
    return _joined([repr(name) for name in names])


def _joined(items: list[str]) -> str:
    return ", ".join(items[:SHOWN]) + (f" and {len(items) - SHOWN:,} more" if len(items) > SHOWN else "")
