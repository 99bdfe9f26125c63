"""Where the disk cannot exchange two names in one step, what stood at an output's path outlives every failure."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from graft.errors import OutputError
from graft.files import moves, outputs
from graft.files.outputs import new_file, new_folder

Opener = Callable[..., AbstractContextManager[Path]]
BOTH = pytest.mark.parametrize("opener", [new_file, new_folder])
After = Callable[[Path, Path], None]


@pytest.fixture(autouse=True)
def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moves, "_rename", lambda *_: False)


@pytest.fixture
def python_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def fill(path: Path, opener: Opener, text: str) -> None:
    if opener is new_folder:
        path.mkdir(exist_ok=True)
    (path / "a.txt" if opener is new_folder else path).write_text(text)


def text_of(path: Path) -> str:
    return (path / "a.txt" if path.is_dir() else path).read_text()


def replace(path: Path, opener: Opener, text: str = "new") -> None:
    with opener(path, force=True) as temporary:
        fill(temporary, opener, text)


def run_after_moving_aside(monkeypatch: pytest.MonkeyPatch, run: After) -> None:
    rename = Path.rename

    def renamed(self: Path, target: Path) -> Path:
        result = rename(self, target)
        if target.name == "old":
            run(self, target)
        return result

    monkeypatch.setattr(Path, "rename", renamed)


def entries(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@BOTH
@pytest.mark.usefixtures("python_handler")
def test_a_signal_waits_until_both_names_are_exchanged(
    opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(path := tmp_path / "out", opener, "old")
    run_after_moving_aside(monkeypatch, lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        replace(path, opener)
    assert text_of(path) == "new"
    assert entries(tmp_path) == ["out"]


@BOTH
def test_an_interruption_of_the_move_itself_puts_the_old_output_back(
    opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Path) -> None:
        raise KeyboardInterrupt

    fill(path := tmp_path / "out", opener, "old")
    run_after_moving_aside(monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        replace(path, opener)
    assert text_of(path) == "old"
    assert entries(tmp_path) == ["out"]


@BOTH
def test_an_old_output_whose_place_was_taken_is_kept_and_named(
    opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(path := tmp_path / "out", opener, "old")
    with monkeypatch.context() as patched:
        run_after_moving_aside(patched, lambda place, _: fill(place, opener, "theirs"))
        with pytest.raises(OutputError, match=r"out: cannot be replaced \(File exists\); .* before is ") as caught:
            replace(path, opener)
    kept = Path(str(caught.value).rpartition(" is ")[2])
    assert (text_of(path), text_of(kept)) == ("theirs", "old")
    replace(path, opener)  # which clears away what others left
    assert (text_of(path), text_of(kept)) == ("new", "old")
    assert entries(tmp_path) == sorted([kept.parent.name, "out"])


@BOTH
def test_what_was_changed_at_the_last_moment_is_kept_where_it_cannot_go_back(
    opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(path := tmp_path / "out", opener, "old")
    exchange, calls = outputs.exchange, []

    def failing(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        fill(target, opener, "theirs, at the last moment")
        exchange(source, target)

    monkeypatch.setattr(outputs, "exchange", failing)
    with pytest.raises(OutputError, match=r"cannot be replaced \(Input/output error\); .* before is ") as caught:
        replace(path, opener)
    assert text_of(path) == "new"
    assert text_of(Path(str(caught.value).rpartition(" is ")[2])) == "theirs, at the last moment"
