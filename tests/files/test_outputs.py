"""Outputs appear whole or not at all, and nothing that exists is overwritten without force."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from graft.errors import OutputError
from graft.files import moves, outputs
from graft.files.outputs import new_file, new_folder
from graft.files.workplaces import MARK, put_mark
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
        assert place.parent.parent == path.parent  # the same disk, so that the move is one step
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
@pytest.mark.parametrize("where", ["_sync", "put_mark", "move_new"])
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


@BOTH
@pytest.mark.parametrize("helped", [True, False], ids=["system", "reserved"])
def test_a_failed_move_leaves_what_stood_there(
    opener: Opener, helped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"
    with opener(path) as place:
        fill(opener, place, "old")
    replace = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(5, "Input/output error")
        return replace(self, target)

    def failing_step(*_: object) -> bool:
        if helped:
            raise OSError(5, "Input/output error")
        return False

    monkeypatch.setattr(Path, "replace", failing)
    monkeypatch.setattr(moves, "_rename", failing_step)
    with pytest.raises(OutputError, match="Input/output error"), opener(path, force=True) as place:
        fill(opener, place, "new")
    assert text_of(path) == "old"
    assert entries(tmp_path) == ["out"]


@BOTH
@pytest.mark.parametrize("helped", [True, False], ids=["system", "reserved"])
@pytest.mark.parametrize("at_first", [True, False], ids=["another stood there", "nothing stood there"])
@pytest.mark.parametrize("force", [True, False])
def test_what_appears_at_the_path_meanwhile_stays(
    opener: Opener, helped: bool, at_first: bool, force: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not helped:
        monkeypatch.setattr(moves, "_rename", lambda *_: False)
    if at_first and not force:
        pytest.skip("refused at once")
    path = tmp_path / "out"
    if at_first:
        with opener(path) as place:
            fill(opener, place, "old")
    with pytest.raises(OutputError, match="was written by something else"), opener(path, force=force) as place:  # noqa: PT012
        fill(opener, place, "mine")
        with opener(path, force=True) as other:
            fill(opener, other, "theirs")
    assert text_of(path) == "theirs"
    assert entries(tmp_path) == ["out"]
    with opener(path, force=True) as place:  # the control: nothing else writes
        fill(opener, place, "mine")
    assert text_of(path) == "mine"


@pytest.mark.parametrize("change", ["add", "rewrite", "remove"])
def test_a_folder_that_is_changed_deep_inside_meanwhile_is_not_replaced(change: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    (path / "sub").mkdir(parents=True)
    (path / "sub" / "old.txt").write_text("old")
    with pytest.raises(OutputError, match="was written by something else"), new_folder(path, force=True):  # noqa: PT012
        if change == "remove":
            (path / "sub" / "old.txt").unlink()
        else:
            (path / "sub" / ("old.txt" if change == "rewrite" else "new.txt")).write_text("theirs")
    left = {"add": ["sub/new.txt", "sub/old.txt"], "rewrite": ["sub/old.txt"], "remove": []}
    assert files_below(path) == left[change]


@BOTH
def test_of_many_at_once_exactly_one_succeeds(opener: Opener, tmp_path: Path) -> None:
    start, outcomes = threading.Barrier(8), []

    def write(name: str) -> None:
        try:
            with opener(tmp_path / "out") as place:
                fill(opener, place, name)
                start.wait()
            outcomes.append(name)
        except OutputError:
            outcomes.append("")

    threads = [threading.Thread(target=write, args=(str(number),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 8
    assert list(filter(None, outcomes)) == [text_of(tmp_path / "out")]
    assert entries(tmp_path) == ["out"]


@BOTH
def test_names_as_long_as_the_disk_allows(opener: Opener, tmp_path: Path) -> None:
    for name in ("x" * 255, "ß" * 127):
        with opener(tmp_path / name) as place:
            fill(opener, place, "first")
        with opener(tmp_path / name, force=True) as place:
            fill(opener, place, "second")
        assert text_of(tmp_path / name) == "second"
    assert entries(tmp_path) == sorted(["x" * 255, "ß" * 127])


def test_files_in_a_folder_get_the_usual_rights_too(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with new_folder(tmp_path / "out") as place:
            (place / "sub").mkdir()
            (place / "sub" / "secret").touch(mode=0o600)
            (place / "open").touch()
    finally:
        os.umask(before)
    rights = {name: stat.S_IMODE((tmp_path / "out" / name).stat().st_mode) for name in ("sub", "sub/secret", "open")}
    assert rights == {"sub": 0o750, "sub/secret": 0o640, "open": 0o640}


def test_many_threads_write_with_the_usual_rights(tmp_path: Path) -> None:
    def write(number: int) -> int:
        with new_file(tmp_path / f"{number}") as place:
            place.write_text("x")
        (tmp_path / f"{number}.other").touch()
        return stat.S_IMODE((tmp_path / f"{number}.other").stat().st_mode)

    before = os.umask(0o077)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(write, range(200))) == {0o600}
    finally:
        os.umask(before)


@BOTH
def test_places_where_nothing_can_be_made_are_refused(opener: Opener, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "out", tmp_path / "file" / "deep" / "out"):
        with pytest.raises(OutputError, match=r"not a folder"), opener(path):
            pytest.fail("must refuse before any work")
    for name in ("x" * 256, "ß" * 128, f"new/{'x' * 256}", f"{'x' * 300}/out"):
        with pytest.raises(OutputError, match="File name too long"), opener(tmp_path / name):
            pytest.fail("must refuse before any work")
    assert entries(tmp_path) == ["file"]


def test_a_file_does_not_replace_a_folder_but_a_folder_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="Is a directory"), new_file(tmp_path / "folder", force=True):
        pytest.fail("must refuse before any work")
    with new_folder(tmp_path / "file", force=True) as place:
        (place / "a.txt").touch()
    assert files_below(tmp_path) == ["file/a.txt"]
    assert entries(tmp_path) == ["file", "folder"]


@BOTH
def test_of_a_link_only_the_link_is_replaced_and_only_with_force(opener: Opener, tmp_path: Path) -> None:
    behind = tmp_path / "behind"
    with opener(behind) as place:
        fill(opener, place, "kept")
    (tmp_path / "link").symlink_to(behind)
    (tmp_path / "file-link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="exists already"), opener(tmp_path / "link"):
        pytest.fail("must refuse before any work")
    with pytest.raises(OutputError, match="exists already"), opener(tmp_path / "file-link"):
        pytest.fail("a link to nothing is something")
    with opener(tmp_path / "link", force=True) as place:
        fill(opener, place, "new")
    assert not (tmp_path / "link").is_symlink()
    assert (text_of(behind), text_of(tmp_path / "link")) == ("kept", "new")
    assert not (tmp_path / "nowhere").exists()


@BOTH
def test_what_a_killed_process_left_goes_and_what_a_living_one_holds_stays(opener: Opener, tmp_path: Path) -> None:
    path = tmp_path / "out"
    for name in (".graft-killed00", ".graft-killed01", ".graft-last0000"):
        (tmp_path / name).mkdir()
        put_mark(tmp_path / name, path)
    (tmp_path / ".graft-killed01" / "new").write_text("half")
    for name in (".graft-early000", ".graft-early001"):  # killed before the mark was there, or before it was written
        (tmp_path / name).mkdir()
    (tmp_path / ".graft-early001" / MARK).touch()
    (tmp_path / ".graft-last0000" / "old").mkdir()  # the only copy of what stood there
    others = [".graft-foreign0", ".graft-other000"]  # by its name alone nothing is ours
    for name in others:
        (tmp_path / name).mkdir()
        (tmp_path / name / "new").write_text("someone else's")
    put_mark(tmp_path / others[1], tmp_path / "out2")
    with opener(path) as living:
        fill(opener, living, "first")
        with opener(tmp_path / "out", force=True) as place:
            fill(opener, place, "second")
        assert text_of(living) == "first"
        assert entries(tmp_path) == sorted([living.parent.name, ".graft-last0000", "out", *others])
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert text_of(path) == "first"
    with opener(path, force=True) as place:
        fill(opener, place, "third")
    assert entries(tmp_path) == sorted(["out", *others])
