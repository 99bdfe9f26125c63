"""Progress on stderr in bytes with the time left; none where stderr is no terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def byte_bar(what: str, total: int) -> Iterator[Callable[[int], object]]:
    """A bar for the time of the block.

    Args:
        what: the command.
        total: bytes to deal with.

    Yields:
        a function to be called with the number of bytes that have been dealt with.
    """
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit="B", unit_scale=True, unit_divisor=1024, disable=None, leave=False) as bar:
        yield bar.update
