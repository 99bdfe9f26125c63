"""SIGKILL at any moment: the old output or the new one, whole, and the next run is undisturbed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.kills.campaign import Command, Tally, kill_often
from tests.kills.commands import Left, digest, run_and_kill, temporaries_of

KILLS = 4


@pytest.mark.parametrize("name", ["diff", "localize", "apply"])
def test_a_killed_command_starts_clean_or_is_done(
    name: str, base: Path, tuned: Path, task_file: Path, tmp_path: Path
) -> None:
    arguments = {
        "diff": ["diff", base, tuned, "--budget", "300"],
        "localize": ["localize", base, tuned, "--task", task_file, "--budget", "300", "--method", "taylor"],
        "apply": ["apply", base, tmp_path / "skill"],
    }
    small = ["diff", base, tuned, "--budget", "5", "-o", tmp_path / "skill"]
    assert run_and_kill(small, tmp_path / "skill", None).finished
    older = tuned if name == "apply" else tmp_path / "skill"
    out = tmp_path / "out"
    tally = kill_often(Command([*arguments[name], "-o", out, "--force"], out, older), KILLS, seed=0)
    assert tally.sound, tally
    assert tally.old + tally.new + tally.aside == KILLS
    assert {item.name for item in tmp_path.iterdir()} == {"skill", "out"} or tally.aside


def test_half_an_output_is_seen(tmp_path: Path) -> None:
    """A command that writes straight to its final name, killed half way."""
    older, out = tmp_path / "older", tmp_path / "out"
    older.write_bytes(b"old")
    tally = Tally()
    for number, (content, halves) in enumerate([(b"old", 0), (b"new", 0), (b"ne", 1), (None, 2)], start=1):
        out.unlink(missing_ok=True)
        if content is not None:
            out.write_bytes(content)
        left = Left(False, digest(out), temporaries_of(out), 1.0, 0.5)
        tally.count(left, digest(older), hashlib.sha256(b".\0new").hexdigest(), out)
        tally.restarts += 1
        assert (tally.kills, tally.halves, tally.sound) == (number, halves, not halves)
