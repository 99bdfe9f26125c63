"""Many trials: what each gave, what it left, and whether its answer stands when it is asked in another way."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch

from tests.hostile.another_way import WAYS, Way, answer_of, ask_otherwise, difference, is_plan, output_of
from tests.hostile.trials import Trial, make_trial
from tests.hostile.watching import Finished, last_line, look_at, run_command, stamps_of

MOST_MEMORY = 2**30  # bytes by which one trial may raise the process's largest size; models and files are tiny
ASKED_AGAIN = 0.4  # share of the answers by which no figures are had, which cost as much again
CHOOSERS = ("importance", "localize")  # texts padded otherwise round otherwise, and what is nearly equal changes places
QUIET = {"--help", "-h", "--version"}


@dataclass
class Outcome:
    """What came of one trial.

    Attributes:
        number: of the trial.
        kind, line, done: of it.
        code: exit code; None where there was none.
        said: the last line on stderr.
        faults: everything that should not have been, "what: detail".
        way: in which an answer was asked for again, "" where it was not.
        seconds: of processor time that it all took.
        grown: bytes by which it raised the process's largest size.
    """

    number: int
    kind: str
    line: list[str]
    done: list[str]
    code: int | None = None
    said: str = ""
    faults: list[str] = field(default_factory=list)
    way: str = ""
    seconds: float = 0.0
    grown: int = 0


@dataclass
class Tally:
    """The outcomes of many trials.

    Attributes:
        codes: (kind, exit code) -> how often.
        commands: (command, exit code) -> how often.
        faults: what -> the outcomes that showed it.
        ways: way in which an answer was asked for again -> how often.
        done: mutation -> how often.
        slowest, hungriest: the most processor time, and growth in bytes, of one trial.
    """

    codes: Counter[tuple[str, int | None]] = field(default_factory=Counter)
    commands: Counter[tuple[str, int | None]] = field(default_factory=Counter)
    faults: dict[str, list[Outcome]] = field(default_factory=dict)
    ways: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    hungriest: int = 0

    def count(self, outcome: Outcome) -> None:
        self.codes[outcome.kind, outcome.code] += 1
        self.commands[outcome.line[0], outcome.code] += 1
        self.done.update(f"{outcome.kind}: {name.partition(' of ')[0]}" for name in set(outcome.done))
        self.slowest = max(self.slowest, outcome.seconds)
        self.hungriest = max(self.hungriest, outcome.grown)
        if outcome.way:
            self.ways[outcome.way] += 1
        for what in {fault.partition(":")[0] for fault in outcome.faults}:
            self.faults.setdefault(what, []).append(outcome)

    @property
    def executions(self) -> int:
        return self.codes.total()


def run_trials(
    shelf: Path,
    root: Path,
    numbers: Iterable[int],
    seed: int = 0,
    *,
    kind: str | None = None,
    ways: Mapping[str, Way] = WAYS,
) -> Iterator[Outcome]:
    """Run the trials of these numbers, each in a fresh folder below `root`.

    Args:
        shelf: of `build_shelf`.
        root: a folder for the trials; what is in it goes.
        numbers: which trials.
        seed: of all draws.
        kind: of all of them; drawn where absent.
        ways: in which answers are asked for again.
    """
    stamps = stamps_of(shelf)
    for number in numbers:
        start, peak = time.process_time(), peak_memory()
        outcome = run_trial(shelf, root, number, seed, kind=kind, ways=ways)
        after = stamps_of(shelf)
        if after != stamps:
            outcome.faults.append("inputs changed: on the shelf")
            stamps = after
        outcome.grown = peak_memory() - peak
        if outcome.grown > MOST_MEMORY:
            outcome.faults.append(f"memory: {outcome.grown / 2**30:.1f} GiB")
        outcome.seconds = time.process_time() - start
        yield outcome


def run_trial(
    shelf: Path, root: Path, number: int, seed: int, *, kind: str | None = None, ways: Mapping[str, Way] = WAYS
) -> Outcome:
    """Run one trial, see what it gave and what it left, and ask for an answer again."""
    folder = fresh(root / "first")
    trial = make_trial(shelf, folder, seed, number, kind=kind)
    trial.line = with_json(trial.line)
    outcome = Outcome(number, trial.kind, trial.line, trial.done)
    before = look_at(folder.parent)
    finished = run_command(trial.line, folder)
    outcome.code, outcome.said = finished.code, last_line(finished.err)
    outcome.faults += finished.faults()
    outcome.faults += left_behind(before, look_at(folder.parent), trial, finished)
    if finished.code == 0 and not QUIET & set(trial.line):
        if trial.meaning == "wrong":
            outcome.faults.append("silent answer: to what is wrong")
        _ask_again(shelf, root, trial, finished, outcome, seed, ways)
    elif trial.kind == "sound":
        outcome.faults.append(f"refused though sound: {outcome.said}")
    return outcome


def with_json(line: list[str]) -> list[str]:
    """The same command, asked for JSON."""
    return [line[0], "--json", *line[1:]]


def peak_memory() -> int:
    """The process's largest resident size so far, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def fresh(root: Path) -> Path:
    """An empty folder for the commands, beside one for temporaries."""
    if root.exists():
        shutil.rmtree(root)
    (root / "work").mkdir(parents=True)
    (root / "tmp").mkdir()
    return root / "work"


def left_behind(before: Mapping[str, str], after: Mapping[str, str], trial: Trial, finished: Finished) -> Iterator[str]:
    """What a command left or changed that it should not have: anything when refused, else all but its output."""
    out = _output_of(trial) if finished.code == 0 else None
    inputs = tuple(f"{place}/" for place in _inputs_of(trial))
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) == after.get(path):
            continue
        is_output = out is not None and (f"{path}/".startswith(f"{out}/") or f"{out}/".startswith(f"{path}/"))
        if path not in before and not is_output:
            yield f"left behind: {path[:80]}"
        elif path in before and (not is_output or f"{path}/".startswith(inputs)):
            yield f"inputs changed: {path[:80]}"


def _inputs_of(trial: Trial) -> set[str]:
    """The paths that a command line names otherwise than as its output."""
    named = [
        word for before, word in pairwise(trial.line) if before not in ("-o", "--output") and word not in ("", "/")
    ]
    return {os.path.normpath(os.path.join("work", word)) for word in named}  # noqa: PTH118


def _output_of(trial: Trial) -> str | None:
    if is_plan(trial.line) or (word := output_of(trial.line)) is None:
        return None
    return os.path.normpath(os.path.join("work", word))  # noqa: PTH118


def _ask_again(
    shelf: Path, root: Path, trial: Trial, finished: Finished, outcome: Outcome, seed: int, ways: Mapping[str, Way]
) -> None:
    """Ask for an answer in another way, or without what should not matter, and compare."""
    try:
        first = answer_of(trial, finished, root / "first" / "work")
    except ValueError as error:
        outcome.faults.append(f"no JSON: {error}")
        return
    draw = random.Random(f"{seed}/{outcome.number}/again")
    if trial.line[0] != "evaluate" and draw.random() > ASKED_AGAIN:
        return
    if trial.kind == "tokenizer" and trial.line[0] in CHOOSERS:
        return
    folder = fresh(root / "second")
    without = trial.meaning == "harmless" and bool(trial.done) and draw.random() < 0.7
    made = make_trial(shelf, folder, seed, outcome.number, kind=trial.kind, sound=without)
    with _threads_kept():
        asked = ("without it", made.line) if without else ask_otherwise(draw, made, folder, ways)
        if asked is None or not first:
            return
        outcome.way, made.line = asked
        made.line = with_json(made.line)
        again = run_command(made.line, folder)
    if again.code != 0:
        outcome.faults.append(f"silent answer: {outcome.way}: refused then: {last_line(again.err)[:200]}")
    elif found := difference(first, answer_of(made, again, folder)):
        outcome.faults.append(f"silent answer: {outcome.way}: {found}")


@contextlib.contextmanager
def _threads_kept() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
