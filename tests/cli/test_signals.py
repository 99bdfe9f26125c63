"""Signals raise KeyboardInterrupt while a command is at work, but not while something is imported."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from graft_cli.entry import main
from graft_cli.signals import Signals

from tests.cli.test_process import ENVIRONMENT
from tests.models import write_task

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="signals as Unix has them")


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 129, "terminated"),
    ],
)
def test_a_signal_ends_a_block_and_is_known(number: int, code: int, word: str) -> None:
    before = signal.getsignal(number)
    with contextlib.suppress(KeyboardInterrupt), Signals() as signals:
        os.kill(os.getpid(), number)
        time.sleep(5)
        pytest.fail("it went on")
    assert (signals.received, signals.code) == (number, code)
    assert signals.line.startswith(f"{word}; nothing half-written is left")
    assert signal.getsignal(number) is before


def test_an_import_is_finished_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(0.2)\nDONE = True\n"
    (tmp_path / "slow_to_import.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with contextlib.suppress(KeyboardInterrupt), Signals():
        import slow_to_import  # type: ignore[import-not-found]

        time.sleep(5)
        pytest.fail("it went on")
    assert slow_to_import.DONE


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGINT)
        assert signals.received is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_error_that_a_library_made_of_a_signal_is_the_signal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def swallow(*_: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None

    monkeypatch.setattr("graft_cli.processes.join", swallow)
    with pytest.raises(SystemExit) as left:
        main(["inspect", "x"])
    assert left.value.code == 143
    assert capsys.readouterr().err.startswith("terminated; nothing half-written is left")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("after", [0.6, 1.6])
def test_a_process_leaves_by_the_signals_code_while_it_imports_too(
    number: int, code: int, after: float, base: Path, tmp_path: Path
) -> None:
    task = write_task(tmp_path / "toy", train={"epochs": 100_000, "lr": 0.01})
    command = [sys.executable, "-m", "graft_cli", "train", base, "--task", task, "-o", tmp_path / "out", "--json"]
    process = subprocess.Popen(
        list(map(str, command)),
        env=ENVIRONMENT,
        stdout=-1,
        stderr=-1,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        time.sleep(after)
        process.send_signal(number)
        printed, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, printed) == (code, ""), said
    assert "Traceback" not in said
    assert {path.name for path in tmp_path.iterdir()} <= {"toy", "out.resume"}
