"""Many kills of one command, each over an older output and followed by a run that is let be."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.kills.commands import Left, digest, run_and_kill

BEYOND = 1.1  # kills come until so many times an undisturbed run's time: some come too late


@dataclass
class Tally:
    """What came of a number of kills.

    Attributes:
        kills: all of them.
        late: those that came after the command was done.
        old: final names under which the older output stood whole.
        new: those under which the new one did.
        aside: those under which nothing stood, the older output whole beside it, under a hidden name.
        halves: anything else.
        leftovers: kills that left a temporary beside the output.
        restarts: runs after a kill that made the bytes of an undisturbed one.
        remains: runs after a kill that left a temporary, their own or another's.
    """

    kills: int = 0
    late: int = 0
    old: int = 0
    new: int = 0
    aside: int = 0
    halves: int = 0
    leftovers: int = 0
    restarts: int = 0
    remains: int = 0

    def count(self, left: Left, old: str | None, new: str | None, output: Path) -> None:
        """Count one kill by the digests of the older and the new output."""
        self.kills += 1
        self.late += left.finished
        self.leftovers += bool(left.temporaries)
        aside = left.output is None and any(digest(output.parent / name / "old") == old for name in left.temporaries)
        self.old += left.output == old
        self.new += left.output == new
        self.aside += aside
        self.halves += not (aside or left.output in (old, new))

    @property
    def sound(self) -> bool:
        """Whether no kill left half an output, and every run after one was undisturbed."""
        return self.halves == 0 and self.restarts == self.kills and self.remains <= self.aside


@dataclass(frozen=True)
class Command:
    """A command to kill.

    Attributes:
        arguments: all of them, the output included.
        output: what it makes.
        older: what stands there before, another run's output.
    """

    arguments: Sequence[object]
    output: Path
    older: Path


def kill_often(command: Command, kills: int, seed: int, progress: Callable[[], object] = lambda: None) -> Tally:
    """Kill a command at random moments: of its whole run and, every other time, of the part in which it writes.

    Args:
        command: which overwrites its output.
        kills: how many.
        seed: of the moments.
        progress: called after each kill.
    """
    whole = run_and_kill(command.arguments, command.output, None)
    assert whole.finished
    old, moments, tally = digest(command.older), random.Random(seed), Tally()
    assert None not in (old, whole.output)
    assert old != whole.output
    again = whole
    for number in range(kills):
        _put(command.older, command.output)
        writing = bool(number % 2)
        after = moments.uniform(0, BEYOND * (again.writing if writing else again.seconds))  # as the machine is now
        left = run_and_kill(command.arguments, command.output, after, while_writing=writing)
        tally.count(left, old, whole.output, command.output)
        again = run_and_kill(command.arguments, command.output, None)
        tally.restarts += again.finished and again.output == whole.output
        tally.remains += bool(again.temporaries)
        progress()
    return tally


def _put(older: Path, output: Path) -> None:
    """The older output in the place of what stands there."""
    if output.is_dir():
        shutil.rmtree(output)
    output.unlink(missing_ok=True)
    shutil.copytree(older, output) if older.is_dir() else shutil.copyfile(older, output)
