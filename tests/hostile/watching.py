"""Running a command in this process as a person would see it, and what it did to the folders around it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import resource
import signal
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from graft_cli.entry import main

LONGEST_LINE = 1500  # characters of a refusal
MEMORY = 3 * 2**30  # bytes of addresses that a command may take beyond what the process has
DRAWS = 20  # of the bootstrap, instead of a thousand: its intervals are not looked at here


@dataclass(frozen=True)
class Finished:
    """What a command gave: exit code (None where it raised), stdout, stderr, and what it raised."""

    code: int | None
    out: str
    err: str
    raised: str = ""

    def answer(self) -> Any:
        """The JSON object on stdout.

        Raises:
            ValueError: there is none, or it holds what is not JSON, such as NaN.
        """
        return json.loads(self.out, parse_constant=_refuse_constant)

    def faults(self) -> Iterator[str]:
        """What nobody should see."""
        if self.raised or "Traceback (most" in self.err:
            yield f"traceback: {self.raised or last_line(self.err)}"
        elif self.code not in (0, 1, 2):
            yield f"exit code {self.code}"
        if "a bug;" in self.err:
            yield f"a bug: {last_line(self.err)}"
        if self.code == 1 and not self.out:
            last = last_line(self.err)
            if not last.startswith("error: "):
                yield f"not one line: {self.err[-200:]!r}"
            elif len(last) > LONGEST_LINE:
                yield f"a line of {len(last):,} characters: {last[:100]}"


def last_line(text: str) -> str:
    """The last line of what was said, where anything was."""
    return text.strip().rpartition("\n")[2]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


@contextlib.contextmanager
def quick_and_offline() -> Iterator[None]:
    """No command asks a network, intervals are drawn from few resamples, and a server ends once it answers."""
    import datasets
    import huggingface_hub

    from graft.evaluate import bootstrap
    from graft.server import running

    places = (huggingface_hub.constants, datasets.config)
    before, drawn = [place.HF_HUB_OFFLINE for place in places], bootstrap._draw_metrics
    serve = running.run_service
    running.run_service = partial(_serve_briefly, serve)
    bootstrap._draw_metrics = lambda of, metrics, draws, seed: drawn(of, metrics, min(draws, DRAWS), seed)
    for place in places:
        place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        bootstrap._draw_metrics, running.run_service = drawn, serve
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


def _serve_briefly(serve: Callable[..., None], *args: Any, tell: Callable[[str], None]) -> None:
    def tell_and_end(url: str) -> None:
        tell(url)
        signal.raise_signal(signal.SIGTERM)

    serve(*args, tell=tell_and_end)


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """A command that would take all of the machine's memory gets a MemoryError at some GiB."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def run_command(line: list[str], folder: Path) -> Finished:
    """Run `graft LINE` in a folder, with temporaries in `folder/../tmp` and streams as a terminal in UTF-8 has them."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", how) for how in ("strict", "backslashreplace"))
    code, raised, before = None, "", tempfile.tempdir
    tempfile.tempdir = str(folder.parent / "tmp")
    try:
        with (
            contextlib.chdir(folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            bounded_memory(),
        ):
            main(line)
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else None
    except BaseException as error:
        raised = f"{type(error).__name__}: {error}"[:300]
    finally:
        tempfile.tempdir = before
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode("utf-8"))  # type: ignore[attr-defined]
    return Finished(code, texts[0], texts[1], raised)


def look_at(root: Path) -> dict[str, str]:
    """What lies below a folder: path -> what it is, with the digest of a file's bytes."""
    seen = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = os.path.join(folder, name)  # noqa: PTH118 - quicker, over tens of thousands
            seen[os.path.relpath(path, root)] = _what_is(path)
    return seen


def _what_is(path: str) -> str:
    mode = os.lstat(path).st_mode
    if stat.S_ISLNK(mode):
        return f"link to {os.readlink(path)}"  # noqa: PTH115
    if not stat.S_ISREG(mode):
        return f"{stat.S_IFMT(mode):o}"
    with open(path, "rb") as file:  # noqa: PTH123
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def stamps_of(root: Path) -> dict[str, tuple[int, int, int]]:
    """Sizes and times of all files below a folder, which say cheaply whether any was written."""
    found = ((path, path.lstat()) for path in root.rglob("*"))
    return {str(path): (held.st_size, held.st_mtime_ns, held.st_ino) for path, held in found}
