"""Texts that are longer than a head reads: how many of a set are cut, said once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graft.tasks.examples import Example
from graft.tasks.loading import tell_once

if TYPE_CHECKING:
    from graft.tasks.head import Head


def tell_cut(head: Head, n_cut: int, examples: Sequence[Example], name: str) -> None:
    """Say on stderr that of some examples of a set only a part is read, once for a set, whatever it is called.

    Args:
        head: which reads them.
        n_cut: how many.
        examples: the set.
        name: what it is called.
    """
    if n_cut:
        whose = "max_length" if head.limit == head.task.max_length else "the longest input of model and tokenizer"
        counts = f"{n_cut:,} of {len(examples):,} texts are cut to {head.limit} tokens, {whose}"
        tell_once(f"{head.task.name}, {name}: {counts}", (n_cut, head.limit, hash(frozenset(examples))))
