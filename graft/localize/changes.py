"""Counts of the entries that differ between base and tuned checkpoint, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

from graft.errors import BudgetError
from graft.tensors.pair import CheckpointPair
from graft.tensors.streaming import stream_tensors


class Changes:
    """The changed entries in scope, counted when first asked for.

    Attributes:
        pair: base and tuned checkpoints.
        names: base names in scope.
    """

    def __init__(self, pair: CheckpointPair, names: Sequence[str]) -> None:
        self.pair = pair
        self.names = tuple(names)

    @cached_property
    def counts(self) -> Mapping[str, int]:
        """Number of changed entries of each tensor that has any.

        Raises:
            BudgetError: none has; the checkpoints are equal there.
            CheckpointError: a value is NaN or infinite.
        """
        numbers = stream_tensors(self._count, self.names, self.pair.stored, "changes")
        counts = {name: count for name, count in zip(self.names, numbers, strict=True) if count}
        if not counts:
            but = " but for rounding" if any(map(self.pair.rounds, self.names)) else ""
            raise BudgetError(f"base and tuned checkpoints are equal in scope{but}: there is no skill to cut out")
        return counts

    def _count(self, name: str) -> int:
        return len(self.pair.changed(name))
