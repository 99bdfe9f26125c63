"""Outputs appear whole or not at all, and nothing that exists is overwritten without force."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from graft import outputs
from graft.errors import OutputError
from graft.outputs import new_file, new_folder, refuse_existing
from tests.checkpoints import files_below

Opener = Callable[..., AbstractContextManager[Path]]
BOTH = pytest.mark.parametrize("opener", [new_file, new_folder])
FAULTS = [OSError(28, "No space left on device"), ValueError("bug"), KeyboardInterrupt(), SystemExit(3)]


def fill(opener: Opener, place: Path, text: str) -> None:
    (place if opener is new_file else place / "a.txt").write_text(text)


def text_of(path: Path) -> str:
    return (path / "a.txt" if path.is_dir() else path).read_text()


def entries(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@BOTH
def test_an_output_appears_whole_on_leaving(opener: Opener, tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "out"
    with opener(path) as place:
        assert place.parent == path.parent  # the same disk, so that the move is one step
        fill(opener, place, "done")
        assert not path.exists()
    assert text_of(path) == "done"
    assert entries(path.parent) == ["out"]


@BOTH
def test_a_relative_path_and_the_usual_rights(opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o027)
    try:
        with opener(Path("out")) as place:
            fill(opener, place, "done")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == (0o640 if opener is new_file else 0o750)


@BOTH
def test_nothing_is_overwritten_without_force(opener: Opener, tmp_path: Path) -> None:
    path = tmp_path / "out"
    for text in ("first", "second"):
        with opener(path, force=text == "second") as place:
            fill(opener, place, text)
        assert text_of(path) == text
    with pytest.raises(OutputError, match=r"exists already: .* --force"), opener(path):
        pytest.fail("must refuse before any work")
    with pytest.raises(OutputError, match="exists already"):
        refuse_existing(path, force=False)
    refuse_existing(path, force=True)
    assert text_of(path) == "second"
    assert entries(tmp_path) == ["out"]


def test_a_folder_is_replaced_whole_and_never_merged_into(tmp_path: Path) -> None:
    path = tmp_path / "out"
    (path / "sub").mkdir(parents=True)
    (path / "sub" / "old.txt").write_text("old")
    with new_folder(path, force=True) as place:
        fill(new_folder, place, "new")
        assert files_below(path) == ["sub/old.txt"]
    assert files_below(tmp_path) == ["out/a.txt"]


@BOTH
@pytest.mark.parametrize("fault", FAULTS, ids=repr)
@pytest.mark.parametrize("exists", [True, False])
def test_a_crash_inside_leaves_what_was_there(
    opener: Opener, fault: BaseException, exists: bool, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "out"
    if exists:
        with opener(path) as place:
            fill(opener, place, "old")
    expected = OutputError if isinstance(fault, OSError) else type(fault)
    with pytest.raises(expected), opener(path, force=True) as place:  # noqa: PT012
        fill(opener, place, "half")
        raise fault
    if exists:
        assert text_of(path) == "old"
        assert entries(path.parent) == ["out"]
    else:
        assert entries(tmp_path) == []


@BOTH
@pytest.mark.parametrize("where", ["_sync", "_umask"])
def test_a_full_disk_is_said_in_one_line(
    opener: Opener, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs, where, full)
    with pytest.raises(OutputError) as caught, opener(tmp_path / "new" / "out") as place:
        fill(opener, place, "all")
    assert str(caught.value) == f"{tmp_path / 'new' / 'out'}: cannot be written (No space left on device)"
    assert entries(tmp_path) == []


def test_a_failed_move_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out"
    with new_folder(path) as place:
        fill(new_folder, place, "old")
    replace = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if self.name.startswith(".out.") and target == path:
            raise OSError(5, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OutputError, match="Input/output error"), new_folder(path, force=True) as place:
        fill(new_folder, place, "new")
    assert text_of(path) == "old"
    assert entries(tmp_path) == ["out"]


@BOTH
def test_places_where_nothing_can_be_made_are_refused(opener: Opener, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "out", tmp_path / "file" / "deep" / "out"):
        with pytest.raises(OutputError, match=r"file is not a folder|Not a directory"):
            refuse_existing(path, force=False)
        with pytest.raises(OutputError, match=r"not a folder"), opener(path):
            pytest.fail("must refuse before any work")
    for name in ("x" * 300, "x" * 250):  # too long itself, or only with the temporary name's ending
        with pytest.raises(OutputError, match="File name too long"), opener(tmp_path / "new" / name):
            pytest.fail("must refuse before any work")
    assert entries(tmp_path) == ["file"]


def test_a_file_does_not_replace_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="Is a directory"), new_file(tmp_path / "out", force=True) as place:
        place.write_text("x")
    assert entries(tmp_path) == ["out"]
    assert entries(tmp_path / "out") == []


@BOTH
def test_what_a_killed_process_left_goes_and_what_a_living_one_holds_stays(opener: Opener, tmp_path: Path) -> None:
    path = tmp_path / "out"
    (tmp_path / ".out.graft-killed00").write_text("half")
    (tmp_path / ".out.graft-killed01").mkdir()
    (tmp_path / ".out.graft-killed01" / "a.txt").write_text("half")
    (tmp_path / ".out.graft-old-last0000").mkdir()  # the only copy of what stood there
    others = [".out.settings", ".out2.graft-killed00"]
    for name in others:
        (tmp_path / name).write_text("someone else's")
    with opener(path) as living:
        fill(opener, living, "first")
        with opener(tmp_path / "out", force=True) as place:
            fill(opener, place, "second")
        assert text_of(living) == "first"
        assert entries(tmp_path) == sorted([living.name, ".out.graft-old-last0000", "out", *others])
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert text_of(path) == "first"
    with opener(path, force=True) as place:
        fill(opener, place, "third")
    assert entries(tmp_path) == sorted(["out", *others])
