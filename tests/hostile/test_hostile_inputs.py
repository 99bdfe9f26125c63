"""A short run of hostile trials, and proof that what is watched would be seen."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import torch

from tests.hostile import watching, workers
from tests.hostile.__main__ import SORTS, describe
from tests.hostile.another_way import WAYS, own_models, task_in
from tests.hostile.campaign import Outcome, Tally, fresh, run_trials
from tests.hostile.data_files import BYTES, ROWS
from tests.hostile.model_folders import CONFIG, TOKENIZER
from tests.hostile.shelf import HEADS, build_shelf, task_of
from tests.hostile.trials import KINDS, make_trial
from tests.hostile.values import Draw
from tests.hostile.watching import look_at, quick_and_offline, run_command
from tests.hostile.weights import WEIGHTS
from tests.hostile.workers import run_watched
from tests.hostile.yaml_files import STRUCTURE, WRITING, to_text

# what the short run looks at: kinds of trials and how many, ways in which answers are asked for again
SHORT = {"TASK": 28, "data": 40, "weights": 28, "options": 26}
ASKED = {way: WAYS[way] for way in ("batch size", "shard layout", "threads", "order of rows")}
Deed = Callable[[list[str]], object]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with quick_and_offline():
        yield build_shelf(tmp_path_factory.mktemp("hostile") / "shelf")


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)


@pytest.mark.parametrize("kind", SHORT)
def test_a_short_campaign_finds_nothing(kind: str, models: Path, tmp_path: Path) -> None:
    tally = Tally()
    for outcome in run_trials(models, tmp_path, range(SHORT[kind]), seed=1, kind=kind, ways=ASKED):
        assert outcome.faults == [], outcome
        tally.count(outcome)
    assert tally.executions == SHORT[kind]
    assert tally.codes[kind, 1] > 3
    assert tally.codes[kind, 0] > 1
    assert "| silent answer | 0 |" in describe(tally, 1, 1.0)


def test_what_is_sound_is_answered_and_the_same_in_every_way(models: Path, tmp_path: Path) -> None:
    asked = Tally()
    for way in ASKED:
        for outcome in run_trials(models, tmp_path, range(3), seed=2, kind="sound", ways={way: WAYS[way]}):
            assert (outcome.code, outcome.faults) == (0, []), outcome
            asked.count(outcome)
    assert set(asked.ways) == set(ASKED)


def test_a_trial_depends_on_seed_and_number_alone(models: Path, tmp_path: Path) -> None:
    made = []
    for root in (tmp_path / "one", tmp_path / "two"):
        made.append([])
        for number in range(40):
            trial = make_trial(models, fresh(root), 5, number)
            made[-1].append((trial.line, trial.done, trial.meaning, look_at(root)))
    assert made[0] == made[1]
    assert len({str(made) for made in made[0]}) > 35


@pytest.mark.parametrize("name", [*CONFIG, *TOKENIZER, *WEIGHTS])
def test_every_mutation_changes_a_folder(name: str, models: Path, tmp_path: Path) -> None:
    for seed in range(9):
        folder = fresh(tmp_path)
        _, [model, *_] = own_models(make_trial(models, folder, 0, 0, kind="sound"), folder)
        before = look_at(tmp_path)
        (CONFIG | TOKENIZER | WEIGHTS)[name](Draw(seed), model)
        if look_at(tmp_path) != before:
            return
    pytest.fail(f"{name} changes nothing")


@pytest.mark.parametrize("name", [*STRUCTURE, *WRITING, *ROWS, *BYTES])
def test_every_mutation_changes_a_file(name: str) -> None:
    changed = 0
    for seed in range(20):
        for head in HEADS:
            content, rows = task_of(head)
            before = to_text(content), str(rows["test"])
            if name in STRUCTURE:
                STRUCTURE[name](Draw(seed), content, True)
            elif name in ROWS:
                ROWS[name](Draw(seed), rows["test"])
            after = WRITING[name](Draw(seed), before[0])[0] if name in WRITING else to_text(content)
            row = b'{"text": "good", "label": 1}\n'
            changed += name in BYTES and BYTES[name](Draw(seed), row, "jsonl")[0] != row
            changed += (after, str(rows["test"])) != before
    assert changed > 3


def crash(line: list[str]) -> None:
    raise RuntimeError("out of range")


def say_bug(line: list[str]) -> None:
    click.echo("error: KeyError: 'x' (a bug; --debug shows where)", err=True)
    sys.exit(1)


def say_much(line: list[str]) -> None:
    click.echo("error: " + "x" * 2000, err=True)
    sys.exit(1)


def say_nothing(line: list[str]) -> None:
    sys.exit(1)


def leave_half(line: list[str]) -> None:
    Path(".out.graft-x").mkdir()
    click.echo("error: no", err=True)
    sys.exit(1)


def change_an_input(line: list[str]) -> None:
    Path("task.yaml").write_text("")
    sys.exit(0)


def say_nan(line: list[str]) -> None:
    click.echo('{"nll": NaN}')
    sys.exit(0)


def go_by_the_batch(line: list[str]) -> None:
    click.echo('{"n": 8, "nll": 0.7002}' if "--batch-size" in line else '{"n": 8, "nll": 0.7}')
    sys.exit(0)


SEEN: dict[str, tuple[Deed, str]] = {
    "a crash": (crash, "traceback: RuntimeError: out of range"),
    "a bug": (say_bug, "a bug: error: KeyError"),
    "a long line": (say_much, "a line of 2,007 characters"),
    "no line": (say_nothing, "not one line"),
    "half an output": (leave_half, "left behind: work/.out.graft-x"),
    "an input changed": (change_an_input, "inputs changed: work/task.yaml"),
    "NaN": (say_nan, "no JSON: NaN is not JSON"),
    "another number": (go_by_the_batch, "silent answer: batch size: test nll: 0.7 and 0.7002"),
    "an exit code": (lambda line: sys.exit(3), "exit code 3"),
    "a refusal of what is sound": (say_nothing, "refused though sound"),
}


@pytest.mark.parametrize("name", SEEN)
def test_a_fault_is_seen(name: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deed, fault = SEEN[name]
    monkeypatch.setattr(watching, "main", deed)
    [outcome] = run_trials(models, tmp_path, [0], kind="sound", ways={"batch size": WAYS["batch size"]})
    assert any(found.startswith(fault) for found in outcome.faults), outcome
    tally = Tally()
    tally.count(outcome)
    assert any(f"| {sort} | 1 |" in describe(tally, 0, 1.0) for sort in SORTS)


def test_an_answer_to_what_is_wrong_is_seen(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(line: list[str]) -> None:
        click.echo("{}")
        sys.exit(0)

    monkeypatch.setattr(watching, "main", answer)
    outcomes = list(run_trials(models, tmp_path, range(40), kind="TASK"))
    assert 4 < sum("silent answer: to what is wrong" in outcome.faults for outcome in outcomes) < 30


def test_what_hangs_or_dies_costs_one_trial(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter(range(9))

    def misbehave(line: list[str]) -> None:
        number = next(told)
        if number == 1:
            os._exit(7)
        while number == 2:
            pass
        if number == 3:
            os.mkfifo("pipe")
            Path("pipe").read_text()
        click.echo("error: no", err=True)
        sys.exit(1)

    outcomes: list[Outcome] = []
    monkeypatch.setattr(watching, "main", misbehave)
    monkeypatch.setattr(workers, "LIMIT", 0.3)
    monkeypatch.setattr(workers, "STILL", 0.5)
    monkeypatch.setattr(workers, "POLL", 0.1)
    for first in range(4):
        outcomes += run_watched(models, tmp_path, range(first, first + 1), kind="options")
        next(told)
    assert [outcome.number for outcome in outcomes] == [0, 1, 2, 3]
    assert [outcome.faults[0].partition(":")[0] if outcome.faults else "" for outcome in outcomes] == [
        "",
        "died",
        "hang",
        "hang",
    ]


def test_labels_are_reversed_with_all_that_goes_by_their_order(models: Path, tmp_path: Path) -> None:
    folder = fresh(tmp_path)
    number = next(n for n in range(99) if make_trial(models, fresh(tmp_path), 0, n, kind="sound").head == "similarity")
    trial = make_trial(models, fresh(tmp_path), 0, number, kind="sound")
    before = task_in(folder)
    assert WAYS["label order"](Draw(0), trial, folder) is not None
    after = task_in(folder)
    assert before is not None
    assert after is not None
    assert after["labels"] == before["labels"][::-1]
    assert after["head"]["texts"] == before["head"]["texts"][::-1]


def test_streams_and_threads_are_as_before(models: Path, tmp_path: Path) -> None:
    streams = sys.stdout, sys.stderr
    finished = run_command(["evaluate", "gone", "--task", "gone.yaml"], fresh(tmp_path))
    assert (finished.code, finished.out) == (1, "")
    assert (sys.stdout, sys.stderr) == streams
    list(run_trials(models, tmp_path, range(2), kind="sound", ways={"threads": WAYS["threads"]}))
    assert torch.get_num_threads() == 1
    assert set(KINDS) >= set(SHORT)
