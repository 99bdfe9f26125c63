"""Work on a checkpoint's tensors in threads, with the next ones read ahead and a progress bar in bytes.

PyTorch's elementwise operations and hashlib release Python's lock, so that threads share the cores. Each uses a single
thread of PyTorch's, on parts that fit the processor's cache; letting PyTorch split each operation costs more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from tqdm import tqdm

from graft.tensors.checkpoint import Checkpoint

Result = TypeVar("Result")
Reading = Sequence[tuple[Checkpoint, str]]  # the stored tensors that the work on one name reads


def stream_tensors(
    work: Callable[[str], Result], names: Sequence[str], reads: Callable[[str], Reading], label: str
) -> Iterator[Result]:
    """Yield `work(name)` for each name, in the order of names; after a failure, work that has begun is still finished.

    Args:
        work: called in threads, for several names at once.
        names: the tensors.
        reads: what the work on a name reads, for reading ahead and for progress.
        label: of the bar on stderr.
    """
    n_threads = torch.get_num_threads()
    ahead = dict(zip(names, [*names[n_threads:], *[None] * n_threads], strict=False))
    sizes = {name: sum(checkpoint.n_bytes(stored) for checkpoint, stored in reads(name)) for name in names}

    def run(name: str) -> Result:
        following = ahead[name]
        for checkpoint, stored in reads(following) if following is not None else ():
            checkpoint.prefetch(stored)
        return work(name)

    bar = tqdm(total=sum(sizes.values()), desc=label, unit="B", unit_scale=True, disable=None, leave=False)
    pool = ThreadPoolExecutor(n_threads, "tensors", torch.set_num_threads, (1,))
    try:
        with bar:
            for name, result in zip(names, pool.map(run, names), strict=True):
                bar.update(sizes[name])
                yield result
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(n_threads)  # the threads' own setting is also the default of threads to come
