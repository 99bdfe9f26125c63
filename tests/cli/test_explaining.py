"""What is nobody's bug is said in one line, and results arrive or it is said that they did not."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from graft_cli.entry import main
from graft_cli.explaining import explain_failure

from tests.cli.conftest import Cli
from tests.cli.test_bad_inputs import refused, task
from tests.cli.test_process import ENVIRONMENT


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory: lower --batch-size"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory: lower --batch-size"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory"), "out of memory: lower --batch-size"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "out of memory: lower --batch-size"),
        (OSError(errno.EMFILE, "Too many open files", "a.safetensors"), "a.safetensors: Too many open files"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only file system"),
        (RuntimeError("can't start new thread"), "can't start new thread"),
        (UnicodeEncodeError("utf-8", "\ud83d", 0, 1, "surrogates not allowed"), "a text or name holds characters"),
        (RecursionError("maximum recursion depth exceeded"), "an input is nested too deeply to be read"),
        (ValueError("embedded null byte"), "a path holds a NUL character"),
        (OverflowError("int too big to convert"), "a number is too large (int too big to convert)"),
        (
            RuntimeError("CUDA error: device-side assert triggered"),
            "the device cannot do this (CUDA error: device-side",
        ),
        (NotImplementedError("Cannot copy out of meta tensor; no data!"), "the device cannot do this (Cannot copy"),
        (ModuleNotFoundError("No module named 'x'"), "the installation lacks something"),
    ],
)
def test_what_is_nobodys_bug_has_its_line(error: BaseException, said: str) -> None:
    line = explain_failure(error)
    assert line is not None
    assert line.startswith(said)
    assert "\n" not in line


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("shapes differ"), ValueError("no"), AssertionError()])
def test_a_bug_stays_one(error: BaseException) -> None:
    assert explain_failure(error) is None


@pytest.mark.parametrize("command", ["evaluate", "train"])
@pytest.mark.parametrize("device", ["meta", "cuda:99", "mkldnn", "opengl", "abacus", ""])
def test_a_device_that_cannot_compute_is_refused(
    command: str, device: str, base: Path, shelf: Path, tmp_path: Path, cli: Cli
) -> None:
    more = ["-o", tmp_path / "out"] if command == "train" else []
    line = refused(cli(command, base, *task(shelf), *more, "--device", device))
    assert f"device {device!r}: it cannot compute here (" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("setting", ["lr=1e300", "weight_decay=1e300", "l1=1e300", "localizable={proximal_l1: 1e300}"])
def test_a_number_that_no_weight_can_hold_ends_the_training(
    setting: str, base: Path, shelf: Path, tmp_path: Path, cli: Cli
) -> None:
    line = refused(cli("train", base, *task(shelf), "-o", tmp_path / "out", "--set", setting))
    assert "the step is not finite: lower train.lr" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["train", "--plan"], ["localize", "--plan", "-o", "x"], ["run"]])
def test_an_unknown_dtype_is_refused_wherever_it_is_asked_for(
    arguments: list[Any], base: Path, shelf: Path, tmp_path: Path, cli: Cli
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        json.dumps({"kind": "single", "name": "r", "base": str(base), "task": str(shelf / "toy" / "task.yaml")})
    )
    command, *more = arguments
    given = {"run": [recipe], "train": [base, *task(shelf)], "localize": [base, shelf / "tuned", *task(shelf)]}[command]
    assert "dtype 'int4': choose from" in refused(cli(command, *given, *more, "--dtype", "int4"))


def _shell(line: str, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    """A shell's line in which "$@" stands for the command."""
    command = [sys.executable, "-m", "graft_cli", *map(str, arguments)]
    environment = {**ENVIRONMENT, **more}
    return subprocess.run(
        ["sh", "-c", line, "sh", *command], env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_stdout_that_takes_nothing_is_said(skill: Path) -> None:
    others_shut = _shell('"$@" <&- 2>&-', "inspect", skill, "--json")
    assert (others_shut.returncode, json.loads(others_shut.stdout)["k"]) == (0, 300)
    full = _shell('"$@" >/dev/full', "inspect", skill)
    assert (full.returncode, full.stderr) == (
        1,
        "error: stdout: the result cannot be written (No space left on device)\n",
    )
    shut = _shell('"$@" >&-', "inspect", skill)
    assert (shut.returncode, shut.stderr.count("\n")) == (1, 1)
    assert "stdout is closed" in shut.stderr
    assert "No space left" in _shell('"$@" >/dev/full', "--help").stderr
    gone = _shell('{ "$@"; echo "code $?" >&2; } | true', "inspect", skill)
    assert "Traceback" not in gone.stderr
    assert "Exception ignored" not in gone.stderr


@pytest.fixture
def strangely_named(skill: Path, tmp_path: Path) -> Path:
    """A patch whose name has a character of no encoding."""
    named = tmp_path / os.fsdecode("né\udcff".encode(errors="surrogateescape"))
    named.write_bytes(skill.read_bytes())
    return named


@pytest.mark.parametrize(("encoding", "end"), [("ascii", "?"), ("utf-8", "\\udcff")])  # as click does it, and as we do
def test_what_stdout_cannot_spell_is_written_another_way(
    encoding: str, end: str, skill: Path, strangely_named: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overlap(*more: str) -> str:
        stdout = io.TextIOWrapper(io.BytesIO(), encoding)  # strict, as Python opens it
        monkeypatch.setattr(sys, "stdout", stdout)
        with pytest.raises(SystemExit) as left:
            main(["overlap", str(skill), str(strangely_named), *more])
        assert left.value.code == 0
        stdout.seek(0)
        return stdout.read()

    assert json.loads(overlap("--json"))["pairs"][0]["b"].endswith("né\udcff")
    assert overlap().endswith(f"{end}\n")


def test_a_process_writes_it_another_way_too(skill: Path, strangely_named: Path) -> None:
    shown = _shell('"$@"', "overlap", skill, strangely_named, "--json", PYTHONIOENCODING="ascii")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert json.loads(shown.stdout)["pairs"][0]["b"].endswith("né\udcff")


def test_help_says_what_exit_codes_mean(cli: Cli) -> None:
    said = cli("--help").out
    for code in ("0", "1", "2", "130", "143"):
        assert f"\n    {code} " in said
