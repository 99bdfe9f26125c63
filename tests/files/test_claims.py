"""Nothing that a user did not name as output is ever changed or deleted, not even with force."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from graft.errors import OutputError
from graft.files.claims import Claim, claim_output
from graft.files.outputs import new_file, new_folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a home folder and, in it, the working folder."""
    (tmp_path / "home" / "work").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home" / "work")
    return tmp_path / "home"


def forced(path: Any, *, is_folder: bool = True, inputs: Any = ()) -> Claim:
    return claim_output(path, is_folder=is_folder, force=True, inputs=inputs)


def test_a_folder_of_ones_own_may_be_replaced(home: Path) -> None:
    (home / "work" / "runs").mkdir()
    (home / "work" / "model").mkdir()
    assert forced("runs", inputs=[home / "work" / "model", home / "missing"]).snapshot is not None
    assert forced("new/deep", inputs=[home / "work" / "model"]).snapshot is None


@pytest.mark.parametrize("name", [".", "..", "../work", "", "{home}", "{home}/work", "{home}/work/../../home", "/"])
@pytest.mark.parametrize("is_folder", [True, False])
def test_the_working_and_the_home_folder_and_what_holds_them_are_no_outputs(
    name: str, is_folder: bool, home: Path
) -> None:
    output = name.format(home=home)
    with pytest.raises(OutputError, match=r"working folder|home folder|a disk is mounted"):
        forced(output, is_folder=is_folder)
    (home / "work" / "link").symlink_to(Path(output or ".").absolute())
    with pytest.raises(OutputError, match=r"working folder|home folder|a disk is mounted"):
        forced("link", is_folder=is_folder)


@pytest.mark.parametrize("through", ["path", "relative", "link", "linked weights", "linked parent"])
def test_what_is_read_and_what_holds_it_is_no_output(through: str, home: Path) -> None:
    work = home / "work"
    (work / "store" / "model").mkdir(parents=True)
    (work / "store" / "model" / "weights").write_text("w")
    given = work / "store" / "model"
    if through == "relative":
        given = Path("store/../store/model")
    elif through == "link":
        (work / "model").symlink_to(given)
        given = work / "model"
    elif through == "linked parent":
        (work / "shop").symlink_to(work / "store")
        given = work / "shop" / "model"
    elif through == "linked weights":
        (work / "model").mkdir()
        (work / "model" / "weights").symlink_to("../store/model/weights")
        given = work / "model"
    for name, is_folder in (("store", True), ("store/model", True), ("store/model/weights", False)):
        with pytest.raises(OutputError, match=r"(is or holds|is a part of) the input .*: choose another output"):
            forced(name, is_folder=is_folder, inputs=[given])
        assert forced(name, is_folder=is_folder).snapshot is not None  # the control: by itself it may be replaced
    assert forced("store/model/new", inputs=[given]).snapshot is None  # what is added takes nothing away


def test_a_claim_is_checked_against_what_is_read_later_and_stays_the_same(home: Path) -> None:
    (home / "work" / "data.jsonl").write_text("{}")
    claim = forced("data.jsonl", is_folder=False)
    assert claim_output(claim, is_folder=False) is claim
    with pytest.raises(OutputError, match="is or holds the input"):
        claim_output(claim, is_folder=False, inputs=[Path("data.jsonl")])
    (home / "work" / "data.jsonl").write_text("later")
    with pytest.raises(OutputError, match="was written by something else"), new_file(claim):
        pass
    assert Path("data.jsonl").read_text() == "later"


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "link to a pipe", "link to a device"])
@pytest.mark.parametrize("is_folder", [True, False])
@pytest.mark.parametrize("force", [True, False])
def test_devices_pipes_and_sockets_are_no_outputs(
    kind: str, is_folder: bool, force: bool, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, listener = Path("it"), socket.socket(socket.AF_UNIX)
    if "pipe" in kind:
        os.mkfifo("pipe" if "link" in kind else output)
    if kind == "socket":
        listener.bind("it")
    if kind == "device":
        output = Path("/dev/null")
    if "link" in kind:
        output.symlink_to("/dev/null" if "device" in kind else "pipe")
    with listener, pytest.raises(OutputError, match="a device, a pipe or a socket"):
        claim_output(output, is_folder=is_folder, force=force)
    assert os.path.lexists(output)


def test_a_place_in_which_nothing_can_be_made_is_said_before_the_work(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != home)  # this user may write anywhere
    with pytest.raises(OutputError, match="nothing can be made in"):
        forced(home / "new" / "out")
    forced(home / "work" / "out")
    for name in ("x/..", "loop/out", "gone/out"):
        Path("loop").is_symlink() or Path("loop").symlink_to("loop")
        Path("gone").is_symlink() or Path("gone").symlink_to("nowhere")
        with pytest.raises(OutputError, match=r"name the output itself|is not a folder|symbolic links"):
            forced(name)


def test_a_working_folder_that_is_gone(home: Path) -> None:
    (home / "out").mkdir()
    (home / "work").rmdir()
    with new_folder(home / "out", force=True) as temporary:
        (temporary / "a").touch()
    with pytest.raises(OutputError, match="cannot be written"), new_folder("out"):
        pytest.fail("must refuse before any work")
    (home / "work").mkdir()
