"""SIGKILL at any moment: nothing or the whole output under the final name, and the next run is undisturbed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.kills.commands import run_and_kill, seconds_of

KILLS = 4


def arguments_of(command: str, base: Path, tuned: Path, task: Path, skill: Path, out: Path) -> list[object]:
    return {
        "diff": ["diff", base, tuned, "--budget", "300", "-o", out],
        "localize": ["localize", base, tuned, "--task", task, "--budget", "300", "--method", "taylor", "-o", out],
        "apply": ["apply", base, skill, "-o", out],
    }[command]


@pytest.mark.parametrize("command", ["diff", "localize", "apply"])
def test_a_killed_command_starts_clean_or_is_done(
    command: str, base: Path, tuned: Path, task_file: Path, tmp_path: Path
) -> None:
    skill, out = tmp_path / "skill.safetensors", tmp_path / "out"
    seconds_of(arguments_of("diff", base, tuned, task_file, skill, skill), skill)
    arguments = arguments_of(command, base, tuned, task_file, skill, out)
    seconds, expected = seconds_of(arguments, out)
    assert {item.name for item in tmp_path.iterdir()} == {"skill.safetensors", "out"}
    moments = random.Random(command)
    for _ in range(KILLS):
        left = run_and_kill([*arguments, "--force"], out, moments.uniform(0, seconds))
        assert left.output == expected  # the one that stood there, or the same again: never a half
    again = run_and_kill([*arguments, "--force"], out, None)
    assert (again.finished, again.output, again.temporaries) == (True, expected, ())
