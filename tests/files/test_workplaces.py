"""Folders that the toolkit makes for itself are known by their mark, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from graft.errors import OutputError
from graft.files.workplaces import MARK, drop_workplace, make_workplace, open_workplace, refuse_unmarked, workplace_of


@pytest.mark.parametrize("name", ["out", "x" * 255, "ß" * 127, "y" * 249])
def test_it_is_made_found_again_and_dropped(name: str, tmp_path: Path) -> None:
    folder = make_workplace(tmp_path / name)
    (folder / "state").write_text("1")
    assert folder == make_workplace(tmp_path / name) == workplace_of(tmp_path / name)
    assert folder.name.endswith(".resume")
    refuse_unmarked(folder)
    drop_workplace(tmp_path / name)
    drop_workplace(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_that_leaves_nothing_leaves_no_workplace(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    for leaves in (False, True):
        with pytest.raises(KeyboardInterrupt), open_workplace(out) as folder:  # noqa: PT012
            (folder / "state").touch() if leaves else None
            raise KeyboardInterrupt
        assert folder.exists() == (tmp_path / "new").exists() == leaves
    with pytest.raises(KeyboardInterrupt), open_workplace(out):
        raise KeyboardInterrupt
    assert (workplace_of(out) / "state").exists()


@pytest.mark.parametrize("mark", [None, b"junk", b"{}", b"[" * 100_000])
def test_a_folder_of_that_name_without_our_mark_is_left_alone(mark: bytes | None, tmp_path: Path) -> None:
    folder = workplace_of(tmp_path / "out")
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    if mark is not None:
        (folder / MARK).write_bytes(mark)
    for refused in (lambda: make_workplace(tmp_path / "out"), lambda: refuse_unmarked(folder)):
        with pytest.raises(OutputError, match="is in the way and was not made by graft"):
            refused()
    drop_workplace(tmp_path / "out")
    assert (folder / "notes.txt").read_text() == "mine"


def test_neither_a_link_to_ours_nor_a_copy_under_another_name_is_ours(tmp_path: Path) -> None:
    make_workplace(tmp_path / "other").rename(tmp_path / "moved")
    workplace_of(tmp_path / "out").symlink_to(tmp_path / "moved")
    drop_workplace(tmp_path / "out")
    with pytest.raises(OutputError, match="is in the way"):
        make_workplace(tmp_path / "out")
    (tmp_path / "moved").rename(workplace_of(tmp_path / "third"))
    drop_workplace(tmp_path / "third")
    assert workplace_of(tmp_path / "third").is_dir()
