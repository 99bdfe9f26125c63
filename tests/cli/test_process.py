"""What only a whole process shows: usage errors, tracebacks, signals, streams."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from graft.files.workplaces import MARK
from tests.cli.conftest import Cli
from tests.models import write_task

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'cli'}", "OMP_NUM_THREADS": "1"}


def graft(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "graft_cli", *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fly"], "No such command 'fly'"),
        (["diff", "a"], "Missing argument 'TUNED'"),
        (["diff", "a", "b", "--density", "1e-4"], "--density, --budget, --with-base-values and --force need -o"),
        (["localize", "a", "b", "--task", "t"], "Missing option '-o'"),
        (["localize", "a", "b", "--task", "t", "--curve", "--budget", "9"], "--force need -o"),
        (["diff", "a", "b", "-o", "c", "--density", "many"], "'many' is not a valid float"),
        (["localize", "a", "b", "--task", "t", "-o", "c", "--method", "luck"], "'luck' is not one of"),
        (["evaluate", "a", "--task", "t", "--limit", "0"], "0 is not in the range"),
        (["evaluate", "a", "--task", "t", "--seed", "-1"], "-1 is not in the range"),
        (["train", "a", "--task", "t", "-o", "c", "--epochs", "0"], "0 is not in the range"),
        (["apply", "a", "-o", "c"], "Missing argument 'PATCH...'"),
        (["inspect", "a", "--loud"], "No such option"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], said: str, cli: Cli) -> None:
    finished = cli(*arguments)
    assert (finished.code, finished.out) == (2, "")
    assert said in finished.err
    assert "Traceback" not in finished.err


def test_results_on_stdout_and_errors_on_stderr(skill: Path, tmp_path: Path) -> None:
    good = graft("inspect", skill, "--json")
    assert (good.returncode, good.stderr) == (0, "")
    assert json.loads(good.stdout)["k"] == 300
    wrong = graft("inspect", tmp_path / "gone")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr == f"error: {tmp_path}/gone: no such file or folder\n"
    shown = graft("inspect", tmp_path / "gone", "--debug")
    assert shown.returncode == 1
    assert shown.stderr.startswith("Traceback (most recent call last):")
    assert "CheckpointError" in shown.stderr


def test_debug_raises_what_happened(cli: Cli, tmp_path: Path) -> None:
    from graft_cli.entry import main

    from graft.errors import CheckpointError

    assert cli("inspect", tmp_path / "gone").code == 1
    with pytest.raises(CheckpointError, match="no such file or folder"):
        main(["inspect", str(tmp_path / "gone"), "--debug"])


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyError("two\nlines"), 1, "error: KeyError: 'two\\nlines' (a bug; --debug shows where)\n"),
        (RuntimeError("two\nlines"), 1, "error: RuntimeError: two lines (a bug; --debug shows where)\n"),
        (MemoryError(), 1, "error: out of memory: lower --batch-size, or use a smaller model\n"),
        (
            KeyboardInterrupt(),
            130,
            "\ninterrupted; nothing half-written is left (`train --resume` and `run` go on where they were)\n",
        ),
    ],
)
def test_whatever_else_happens_is_one_line(
    error: BaseException, code: int, said: str, skill: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("graft.patch.format.reading.load_region", fail)
    finished = cli("inspect", skill)
    assert (finished.code, finished.out, finished.err) == (code, "", said)


def _let_ctrl_c_through() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # tests that run in the background inherit a deaf ear


def test_ctrl_c_leaves_a_state_to_go_on_from_and_no_output(base: Path, tmp_path: Path) -> None:
    task, out = write_task(tmp_path / "toy", train={"epochs": 100_000, "lr": 0.01}), tmp_path / "out"
    command = [sys.executable, "-m", "graft_cli", "train", base, "--task", task, "-o", out]
    process = subprocess.Popen(
        list(map(str, command)), env=ENVIRONMENT, stdout=-1, stderr=-1, text=True, preexec_fn=_let_ctrl_c_through
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "out.resume" / "state.pt").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        printed, said = process.communicate(timeout=60)
    finally:
        process.kill()  # a failure must not leave a hundred thousand epochs running
    assert (process.returncode, printed) == (130, "")
    assert (
        said.splitlines()[-1]
        == "interrupted; nothing half-written is left (`train --resume` and `run` go on where they were)"
    )
    assert "Traceback" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.resume", "toy"]
    assert sorted(path.name for path in (tmp_path / "out.resume").iterdir()) == [MARK, "state.pt"]


def test_a_disk_that_takes_no_more_is_said_in_one_line(base: Path, tmp_path: Path) -> None:
    limited = "import resource, sys; from graft_cli import main; "
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)); main(sys.argv[1:])"
    task = write_task(tmp_path / "toy", train={"epochs": 2})
    command = [sys.executable, "-c", limited, "train", base, "--task", task, "-o", tmp_path / "out"]
    run = subprocess.run(list(map(str, command)), env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout) == (1, "")
    assert "cannot be written" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]
