from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from graft_cli.entry import main

from graft.localize.movement import diff_checkpoints
from graft.patch.format.writing import save_patch
from tests.shared_builds import build_once


@dataclass(frozen=True)
class Finished:
    """A command's exit code and what it printed."""

    code: int
    out: str
    err: str


Cli = Callable[..., Finished]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command in this process."""

    def run(*arguments: object) -> Finished:
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return Finished(left.value.code, out, err)

    return run


@pytest.fixture(scope="session")
def skill(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A patch of the 300 largest movements; tests do not write to it."""
    patch = diff_checkpoints(shelf / "base", shelf / "tuned", budget=300)
    return build_once(tmp_path_factory, "shelf/skill.safetensors", lambda path: save_patch(patch, path))
