"""Texts that are longer than a head reads: how many of a set are cut, said once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from graft.tasks.batches import Encoded, unscaled_length
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
        line = f"{head.task.name}, {name}: {n_cut:,} of {len(examples):,} texts are cut to {_describe_limit(head)}"
        tell_once(line, (n_cut, head.limit, hash(frozenset(examples))))


def tell_cut_labels(head: Head, labels: Sequence[Encoded]) -> None:
    """Say on stderr, once, that of some label texts, which every text is compared with, only a part is read."""
    if n_cut := sum(label.is_cut for label in labels):
        tell_once(f"{head.task.name}: {n_cut:,} of {len(labels):,} label texts are cut to {_describe_limit(head)}")


def _describe_limit(head: Head) -> str:
    if head.limit == head.task.max_length:
        return f"{head.limit} tokens, max_length"
    if head.limit == unscaled_length(head.model):
        return f"{head.limit} tokens, past which this model reads a whole batch otherwise (longrope)"
    return f"{head.limit} tokens, the longest input of model and tokenizer"
