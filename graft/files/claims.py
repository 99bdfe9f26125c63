"""Claim: an output that was looked at before the work began, and what stood there then.

What a user did not name is never changed or deleted, with `force` neither: no input, no neighbour, no home or working
folder, no device. And what stands at the output's path when the work is done, but did not when it began, stays.
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
Found = tuple[Entry, ...]


@dataclass(frozen=True)
class Claim(os.PathLike[str]):
    """An output that may be written.

    Attributes:
        path: of the output.
        is_folder: whether a folder is made, or a file.
        force: whether what was found may be replaced.
        found: everything that stood there when the claim was made; None where nothing did.
    """

    path: Path
    is_folder: bool
    force: bool
    found: Found | None

    def __fspath__(self) -> str:
        """So that a claim goes where a path does."""
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)


Output = str | os.PathLike[str]  # a path, or a claim to it
_OTHERWISE = "choose another output"


def claim_output(path: Output, *, is_folder: bool, force: bool = False, inputs: Iterable[Path] = ()) -> Claim:
    """Refuse, before any work, an output that may not or cannot be written; else remember what stands there.

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
    place = Path(path)
    try:
        os.fspath(place).encode()
    except UnicodeEncodeError as error:  # which not every library can write
        raise OutputError(f"{os.fspath(place)!a}: cannot be written (a name that is no UTF-8)") from error
    try:
        if exists := _is_there(place):
            _refuse_special(place)
            _refuse_lived_in(place)
            _refuse_read(place, inputs)
        if isinstance(path, Claim):
            return path
        if exists and not force:
            raise OutputError(f"{place} exists already: choose another name or pass --force to overwrite it")
        _refuse_parent(place)
        _refuse_kind(place, is_folder) if exists else _refuse_name(place)
        return Claim(place, is_folder, force, _find_replaceable(place))
    except OSError as error:
        raise OutputError(f"{place}: cannot be written ({error.strerror or error})") from error


def what_stands_at(path: Path) -> Found | None:
    """A file, link or folder with everything below it, as it can be known again; None where nothing is."""
    if not _is_there(path):
        return None
    return (_entry_of(path, ""), *sorted(_entry_of(item, str(item.relative_to(path))) for item in _below(path)))


def _find_replaceable(path: Path) -> Found | None:
    found = what_stands_at(path)
    if found is not None and len({device for _, device, *_ in found}) > 1:
        raise OutputError(f"{path} holds the mount of another disk, which is not to be emptied: choose another output")
    return found


def _below(path: Path) -> Iterator[Path]:
    if path.is_dir() and not path.is_symlink():
        for folder, folders, files in os.walk(path):
            yield from (Path(folder, name) for name in (*folders, *files))


def _entry_of(path: Path, name: str) -> Entry:
    found = path.lstat()
    size = 0 if stat.S_ISDIR(found.st_mode) else found.st_size  # a folder's is the disk's affair
    return name, found.st_dev, found.st_ino, stat.S_IFMT(found.st_mode), size, found.st_mtime_ns


def _is_there(path: Path) -> bool:
    """Whether something has that name, if only a link to nothing; a name too long for the system is an OSError."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _refuse_special(path: Path) -> None:
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OutputError(f"{path} is a device, a pipe or a socket: an output is a file or folder of its own")


def _refuse_kind(path: Path, is_folder: bool) -> None:
    """Refuse to replace a whole folder by a file; of a link, what is behind it decides."""
    if path.is_dir() and not is_folder:
        raise OutputError(f"{path}: Is a directory, and a file is to be written: choose another name")


def _refuse_name(path: Path) -> None:
    """Refuse a name that nothing new can have here, before the work and not after it."""
    there = _nearest(path)
    if path.name in ("", ".."):
        raise OutputError(f"{path}: name the output itself")
    longest = os.pathconf(there, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    if any(len(os.fsencode(part)) > longest for part in path.parts[len(there.parts) :]):
        raise OutputError(f"{path}: cannot be written (File name too long)")


def _refuse_parent(path: Path) -> None:
    """Refuse a place in which nothing can be made."""
    parent = _nearest(path)
    if not parent.is_dir():
        raise OutputError(f"{path}: {parent} is not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: cannot be written (nothing can be made in {parent})")


def _nearest(path: Path) -> Path:
    """The innermost folder above a path that is there, a link to nothing among it."""
    return next((parent for parent in path.parents if _is_there(parent)), path)


def _refuse_lived_in(path: Path) -> None:
    """Refuse a mount, and the home and the working folder with all that lie above them."""
    if os.path.ismount(os.path.realpath(path)):
        raise OutputError(f"{path} is where a disk is mounted: name a folder in it")
    for what, place in _lived_in():
        if _is_or_holds(path, place):
            raise OutputError(f"{path} is or holds the {what}, which is never overwritten: choose another output")


def _lived_in() -> Iterator[tuple[str, Path]]:
    with contextlib.suppress(FileNotFoundError):  # the working folder may be gone
        yield "working folder", Path.cwd()
    yield "home folder", Path(os.path.expanduser("~"))  # noqa: PTH111 - without an entry for the user this does not raise
    with contextlib.suppress(ImportError, KeyError):  # not a Unix, or a user without an entry, as in containers
        import pwd

        yield "home folder", Path(pwd.getpwuid(os.getuid()).pw_dir)


def _refuse_read(path: Path, inputs: Iterable[Path]) -> None:
    """Refuse what is read: an input, a folder that holds one, and a part of one."""
    for given in inputs:
        for place in _with_links(given):
            if _is_or_holds(path, place):
                raise OutputError(f"{path} is or holds the input {given}, which is never overwritten: {_OTHERWISE}")
            if _is_or_holds(place, path):
                raise OutputError(f"{path} is a part of the input {given}, which is never changed: {_OTHERWISE}")


def _with_links(given: Path) -> Iterator[Path]:
    """An input, and what the links in it lead to, such as a cache's files."""
    yield given
    yield from (item for item in _below(given) if item.is_symlink())


def _is_or_holds(outer: Path, inner: Path) -> bool:
    """Whether a file or folder is another one or lies above it, whatever names lead there."""
    if not outer.exists():  # a link to nothing
        return False
    own, place = outer.stat(), Path(os.path.realpath(inner))
    return any(os.path.samestat(own, other.stat()) for other in (place, *place.parents) if other.exists())
