"""Claims to outputs, checked before the work begins, each with a snapshot of what stood there then.

What a user did not name is never changed or deleted, not even with `force`: no input, no neighbor, no home or
working folder, no device. What stands at the output's path when the work is done, but did not when it began, stays.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from graft.errors import OutputError

Entry = tuple[str, int, int, int, int, int]  # path below, device, inode, kind, bytes, nanoseconds of its last change
Snapshot = tuple[Entry, ...]


@dataclass(frozen=True)
class Claim(os.PathLike[str]):
    """An output that may be written.

    Attributes:
        path: of the output.
        is_folder: whether a folder is made, or a file.
        force: whether what stood there may be replaced.
        snapshot: everything that stood there when the claim was made; None where nothing did.
    """

    path: Path
    is_folder: bool
    force: bool
    snapshot: Snapshot | None

    def __fspath__(self) -> str:
        """Return the path, so that a claim goes where a path does."""
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)


Output = str | os.PathLike[str]  # a path, or a claim to it
_ADVICE = "choose another output"


def claim_output(path: Output, *, is_folder: bool, force: bool = False, inputs: Iterable[Path] = ()) -> Claim:
    """Claim an output before any work: refuse one that may not or cannot be written, else record what stands there.

    A link counts as something that exists; with `force` the link is replaced, never what is behind it.

    Args:
        path: of the output. A claim is only checked against further inputs.
        is_folder: whether a folder is made.
        force: whether to replace what exists.
        inputs: files and folders that the command reads, those that exist; what they link to counts as well.

    Raises:
        OutputError: the path exists and `force` is off; it is, holds or belongs to an input; it is or holds the home or
            the working folder; it is a device, a pipe or a disk's mount; or nothing can be made there.
    """
    output = Path(path)
    try:
        os.fspath(output).encode()
    except UnicodeEncodeError as error:  # which not every library can write
        raise OutputError(f"{os.fspath(output)!a}: cannot be written (a name that is no UTF-8)") from error
    try:
        if is_there := _exists(output):
            _refuse_special(output)
            _refuse_protected(output)
            _refuse_inputs(output, inputs)
        if isinstance(path, Claim):
            return path
        if is_there and not force:
            raise OutputError(f"{output} exists already: choose another name or pass --force to overwrite it")
        _refuse_parent(output)
        _refuse_kind(output, is_folder) if is_there else _refuse_name(output)
        return Claim(output, is_folder, force, _find_replaceable(output))
    except OSError as error:
        raise OutputError(f"{output}: cannot be written ({error.strerror or error})") from error


def take_snapshot(path: Path) -> Snapshot | None:
    """Record a file, link or folder with all that is below it, to recognize it later; None where nothing is."""
    if not _exists(path):
        return None
    return (_entry_of(path, ""), *sorted(_entry_of(item, str(item.relative_to(path))) for item in _contents(path)))


def _find_replaceable(path: Path) -> Snapshot | None:
    snapshot = take_snapshot(path)
    if snapshot is not None and len({device for _, device, *_ in snapshot}) > 1:
        raise OutputError(f"{path} holds the mount of another disk, which is not to be emptied: choose another output")
    return snapshot


def _contents(path: Path) -> Iterator[Path]:
    if path.is_dir() and not path.is_symlink():
        for folder, folders, files in os.walk(path):
            yield from (Path(folder, name) for name in (*folders, *files))


def _entry_of(path: Path, name: str) -> Entry:
    status = path.lstat()
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size  # a folder's is the disk's affair
    return name, status.st_dev, status.st_ino, stat.S_IFMT(status.st_mode), size, status.st_mtime_ns


def _exists(path: Path) -> bool:
    """Return whether something has that name, if only a link to nothing; a name that is too long is an OSError."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _refuse_special(path: Path) -> None:
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OutputError(f"{path} is a device, a pipe or a socket: an output is a file or folder of its own")


def _refuse_kind(path: Path, is_folder: bool) -> None:
    """Refuse to replace a whole folder, or a link to one, by a file."""
    if path.is_dir() and not is_folder:
        raise OutputError(f"{path}: Is a directory, and a file is to be written: choose another name")


def _refuse_name(path: Path) -> None:
    """Refuse a name that nothing new can have here: before the work, not after it."""
    parent = _nearest_folder(path)
    if path.name in ("", ".."):
        raise OutputError(f"{path}: name the output itself")
    longest = os.pathconf(parent, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    if any(len(os.fsencode(part)) > longest for part in path.parts[len(parent.parts) :]):
        raise OutputError(f"{path}: cannot be written (File name too long)")


def _refuse_parent(path: Path) -> None:
    """Refuse a path whose nearest folder is none, or may not be written to."""
    parent = _nearest_folder(path)
    if not parent.is_dir():
        raise OutputError(f"{path}: {parent} is not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: cannot be written (nothing can be made in {parent})")


def _nearest_folder(path: Path) -> Path:
    """Return the innermost parent of a path that exists, if only as a link to nothing."""
    return next((parent for parent in path.parents if _exists(parent)), path)


def _refuse_protected(path: Path) -> None:
    """Refuse a mount, the home folder, the working folder, and every folder above these two."""
    if os.path.ismount(os.path.realpath(path)):
        raise OutputError(f"{path} is where a disk is mounted: name a folder in it")
    for what, folder in _protected_folders():
        if _contains(path, folder):
            raise OutputError(f"{path} is or holds the {what}, which is never overwritten: choose another output")


def _protected_folders() -> Iterator[tuple[str, Path]]:
    with contextlib.suppress(FileNotFoundError):  # the working folder may be gone
        yield "working folder", Path.cwd()
    yield "home folder", Path(os.path.expanduser("~"))  # noqa: PTH111 - without an entry for the user this does not raise
    with contextlib.suppress(ImportError, KeyError):  # not a Unix, or a user without an entry, as in containers
        import pwd

        yield "home folder", Path(pwd.getpwuid(os.getuid()).pw_dir)


def _refuse_inputs(path: Path, inputs: Iterable[Path]) -> None:
    """Refuse to write over an input, a folder that holds one, or a part of one."""
    for source in inputs:
        for linked in _with_links(source):
            if _contains(path, linked):
                raise OutputError(f"{path} is or holds the input {source}, which is never overwritten: {_ADVICE}")
            if _contains(linked, path):
                raise OutputError(f"{path} is a part of the input {source}, which is never changed: {_ADVICE}")


def _with_links(source: Path) -> Iterator[Path]:
    """Yield an input and the links in it, which may lead elsewhere, such as into a cache."""
    yield source
    yield from (item for item in _contents(source) if item.is_symlink())


def _contains(outer: Path, inner: Path) -> bool:
    """Return whether a file or folder is another one or lies above it, whatever names lead there."""
    if not outer.exists():  # a link to nothing
        return False
    own, real = outer.stat(), Path(os.path.realpath(inner))
    return any(os.path.samestat(own, other.stat()) for other in (real, *real.parents) if other.exists())
