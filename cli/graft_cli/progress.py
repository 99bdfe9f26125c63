"""Progress on stderr in bytes with the time left; none where stderr is no terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graft.tensors.checkpoint import Checkpoint


@contextlib.contextmanager
def byte_bar(what: str, total: int, *, per_step: float = 1) -> Iterator[Callable[[int], object]]:
    """A bar for the time of the block.

    Args:
        what: the command.
        total: bytes to deal with.
        per_step: bytes in one of the steps that the yielded function is called with, such as a weight.

    Yields:
        a function to be called with the number of steps that have been dealt with.
    """
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit="B", unit_scale=True, unit_divisor=1024, disable=None, leave=False) as bar:
        yield lambda steps: bar.update(round(steps * per_step))


def size_of(checkpoint: Checkpoint) -> int:
    """Bytes of all tensors of a checkpoint."""
    return sum(stored.stop - stored.start for stored in checkpoint.stored.values())


def bytes_per_weight(checkpoint: Checkpoint) -> float:
    """Mean size of an element."""
    return size_of(checkpoint) / max(1, sum(stored.spec.numel for stored in checkpoint.stored.values()))
