"""Work on a checkpoint's tensors in threads, with the next ones read ahead and a progress bar in bytes.

PyTorch's elementwise operations and hashlib release Python's lock, so that threads share the cores. Each uses a single
thread of PyTorch's, on parts that fit the processor's cache; letting PyTorch split each operation costs more.

Of a few megabytes the work takes less time than handing it to threads does, and stays in the caller's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from tqdm import tqdm

from graft.tensors.checkpoint import Checkpoint

SMALL = 2**22  # bytes in all, up to which no thread is started
Result = TypeVar("Result")
Reading = Sequence[tuple[Checkpoint, str]]  # the stored tensors that the work on one name reads


def stream_tensors(
    work: Callable[[str], Result], names: Sequence[str], reads: Callable[[str], Reading], label: str
) -> Iterator[Result]:
    """Yield `work(name)` for each name, in the order of names; after a failure, work that has begun is still finished.

    Args:
        work: called in threads, for several names at once, unless the tensors are `SMALL` in all.
        names: the tensors.
        reads: what the work on a name reads, for reading ahead and for progress.
        label: of the bar on stderr.
    """
    sizes = {name: sum(checkpoint.n_bytes(stored) for checkpoint, stored in reads(name)) for name in names}
    results = _run_here(work, names) if sum(sizes.values()) <= SMALL else _run_in_threads(work, names, reads)
    bar = tqdm(total=sum(sizes.values()), desc=label, unit="B", unit_scale=True, disable=None, leave=False)
    with bar, contextlib.closing(results):
        for name, result in zip(names, results, strict=True):
            bar.update(sizes[name])
            yield result


def _run_here(work: Callable[[str], Result], names: Sequence[str]) -> Generator[Result, None, None]:
    """Yield the results, each computed by a single thread of PyTorch's as in `_run_in_threads`, to the same bits."""
    n_threads = torch.get_num_threads()
    for name in names:
        torch.set_num_threads(1)
        try:
            result = work(name)
        finally:
            torch.set_num_threads(n_threads)
        yield result


def _run_in_threads(
    work: Callable[[str], Result], names: Sequence[str], reads: Callable[[str], Reading]
) -> Generator[Result, None, None]:
    n_threads = torch.get_num_threads()
    ahead = dict(zip(names, [*names[n_threads:], *[None] * n_threads], strict=False))

    def run(name: str) -> Result:
        following = ahead[name]
        for checkpoint, stored in reads(following) if following is not None else ():
            checkpoint.prefetch(stored)
        return work(name)

    pool = ThreadPoolExecutor(n_threads, "tensors", torch.set_num_threads, (1,))
    try:
        yield from pool.map(run, names)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(n_threads)  # the threads' own setting is also the default of threads to come
