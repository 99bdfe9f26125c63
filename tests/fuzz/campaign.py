"""Running hostile files through the reader, and what is watched: errors, writes, memory, time."""

from __future__ import annotations

import random
import re
import resource
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from graft.errors import GraftError, PatchFormatError
from graft.patch.format import tensor_table
from graft.patch.format.reading import load_mask, load_patch
from graft.patch.format.writing import patch_bytes
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from tests.checkpoints import equal_patches
from tests.fuzz.mutations import hostile_file

FREE_ENTRIES = 2**20  # the reader's bound on entries without data is lowered to this, so that reaching it is quick
SAMPLED = 50  # every so many executions: memory traced, and what loads is saved and read again
ALLOWED = 32  # bytes of memory per byte of a file: JSON takes that much as Python's objects, bits 64 as indices
LONGEST_MESSAGE = 400  # characters, without the file's path
_VARIES = re.compile(r"'(?:[^'\\]|\\.)*'|\"[^\"]*\"|-?\d[\d,.e+]*|\[.*")
_WRITES = (
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "shutil.",
)
_RUNS = (
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "socket.",
    "pickle.",
    "marshal.",
    "ctypes.",
)


@dataclass
class Outcome:
    """What came of a number of files.

    Attributes:
        executions: files read.
        loaded: those that are sound patches or masks.
        facts: refusal without names and numbers -> how often.
        crashes: (number of the file, what came out) for anything but a GraftError in one short line.
        events: writes, processes, connections and unpicklings while a file was read.
        peak: (the most traced bytes for one file, less `ALLOWED` per byte of it).
        slowest: seconds for one file.
    """

    executions: int = 0
    loaded: int = 0
    facts: Counter[str] = field(default_factory=Counter)
    crashes: list[tuple[int, str]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    peak: int = 0
    slowest: float = 0.0
    largest_file: int = 0

    @property
    def refused(self) -> int:
        """Files with a GraftError in one short line."""
        return sum(self.facts.values())


class Watch:
    """Python's audit events while a file is read; the hook stays for the process and is deaf outside."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self.on:
            return
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if writes or event.startswith(_WRITES + _RUNS):
            self.seen.append(f"{event} {arguments[0] if arguments else ''}"[:200])

    @contextmanager
    def listening(self) -> Iterator[None]:
        self.on = True
        try:
            yield
        finally:
            self.on = False


@cache
def the_watch() -> Watch:
    """The one of this process: an audit hook cannot be taken off."""
    return Watch()


@contextmanager
def lowered_bound() -> Iterator[None]:
    """The reader with a lower bound on entries that take no bytes in a file."""
    before = tensor_table.MAX_FREE_ENTRIES
    tensor_table.MAX_FREE_ENTRIES = FREE_ENTRIES
    try:
        yield
    finally:
        tensor_table.MAX_FREE_ENTRIES = before


def run_campaign(
    folder: Path, numbers: Iterable[int], seed: int = 0, progress: Callable[[Outcome], object] = lambda outcome: None
) -> Outcome:
    """Read the files of these numbers; each depends on the seed and its number alone.

    Args:
        folder: where the one file lies that is written again and again.
        numbers: which files.
        seed: of all draws.
        progress: called after each file.
    """
    outcome, watch, path = Outcome(), the_watch(), folder / "p"
    watch.seen.clear()
    with lowered_bound():
        for number in numbers:
            data = hostile_file(random.Random(f"{seed}/{number}"))
            path.write_bytes(data)
            _read(path, data, number, outcome, watch)
            progress(outcome)
    outcome.events = list(watch.seen)
    return outcome


def peak_memory() -> int:
    """The process's largest resident size so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _read(path: Path, data: bytes, number: int, outcome: Outcome, watch: Watch) -> None:
    sampled = number % SAMPLED == 0
    outcome.executions += 1
    outcome.largest_file = max(outcome.largest_file, len(data))
    if sampled:
        tracemalloc.start()
    start = time.perf_counter()
    region = None
    try:
        with watch.listening():
            region = _load(path)
        outcome.loaded += 1
    except GraftError as error:
        outcome.facts[_fact(str(error), path)] += 1
        if "\n" in str(error) or len(str(error)) > len(str(path)) + LONGEST_MESSAGE:
            outcome.crashes.append((number, f"a message of {len(str(error)):,} characters"))
    except Exception as error:
        outcome.crashes.append((number, f"{type(error).__name__}: {error}"[:200]))
    if sampled and region is not None and not _survives(region, path.with_name("again")):
        outcome.crashes.append((number, "is another when it is saved and read again"))
    outcome.slowest = max(outcome.slowest, time.perf_counter() - start)
    if sampled:
        outcome.peak = max(outcome.peak, tracemalloc.get_traced_memory()[1] - ALLOWED * len(data))
        tracemalloc.stop()


def _load(path: Path) -> Patch | Mask:
    """What a file holds, by both readers, which must agree."""
    mask = load_mask(path)
    try:
        patch = load_patch(path)
    except PatchFormatError as error:
        if "a mask file holds no values" in str(error):
            return mask
        raise
    assert patch.mask == mask
    return patch


def _survives(region: Patch | Mask, path: Path) -> bool:
    """Whether it is the same when it is saved and loaded again."""
    try:
        path.write_bytes(patch_bytes(region))
        return equal_patches(load_patch(path), region) if isinstance(region, Patch) else load_mask(path) == region
    except GraftError:
        return False


def _fact(message: str, path: Path) -> str:
    """A refusal without names and numbers, so that alike ones are counted together."""
    return _VARIES.sub("…", message.replace(str(path), "p"))[:60]
