"""No command writes over what it reads, nor over what appeared while it ran, whatever --force says."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoints import files_below
from tests.cli.conftest import Cli
from tests.models import write_task

# command -> its arguments in a folder, which of them are read, and whether it makes a folder
COMMANDS: dict[str, tuple[Callable[[Path], list[object]], list[str], bool]] = {
    "apply": (lambda f: [f / "base", f / "p.safetensors"], ["base", "p.safetensors"], True),
    "diff": (lambda f: [f / "base", f / "tuned"], ["base", "tuned"], False),
    "localize": (
        lambda f: [f / "base", f / "tuned", "--task", f / "toy" / "task.yaml", "--method", "magnitude"],
        ["base", "tuned", "toy/task.yaml", "toy/train.jsonl", "toy/meals.jsonl"],
        False,
    ),
    "train": (
        lambda f: [f / "base", "--task", f / "toy" / "task.yaml", "--protect", f / "p.safetensors", "--epochs", 1],
        ["base", "toy/task.yaml", "toy/test.jsonl", "p.safetensors"],
        True,
    ),
    "compose": (
        lambda f: [f / "p.safetensors", f / "q.safetensors", "--base", f / "base", "--on-overlap", "first"],
        ["p.safetensors", "q.safetensors", "base"],
        False,
    ),
    "exclude": (
        lambda f: [f / "p.safetensors", "--without", f / "q.safetensors", "--base", f / "base"],
        ["p.safetensors", "q.safetensors", "base"],
        False,
    ),
    "exclude from a model": (
        lambda f: [f / "tuned", "--without", f / "q.safetensors", "--base", f / "base"],
        ["tuned", "q.safetensors", "base"],
        True,
    ),
    "overlap": (lambda f: [f / "p.safetensors", f / "q.safetensors"], ["p.safetensors", "q.safetensors"], True),
    "export": (
        lambda f: [f / "p.safetensors", "--to", "state-dict", "--base", f / "base"],
        ["p.safetensors", "base"],
        False,
    ),
    "import": (lambda f: [f / "tuned", "--from", "dense", "--base", f / "base"], ["tuned", "base"], False),
    "importance": (
        lambda f: [f / "tuned", "--method", "movement", "--base", f / "base", "--top", 0.1],
        ["tuned", "base"],
        False,
    ),
    "fuse": (lambda f: [f / "base", f / "tuned", f / "tuned", "--method", "mean"], ["base", "tuned"], True),
}


@pytest.fixture
def folder(shelf: Path, tmp_path: Path, cli: Cli) -> Path:
    """Everything that the commands read, in one folder."""
    folder = tmp_path / "all"
    for name in ("base", "tuned"):
        shutil.copytree(shelf / name, folder / name)
    write_task(folder / "toy")
    for name, budget in (("p", 50), ("q", 30)):
        assert (
            cli(
                "diff", folder / "base", folder / "tuned", "--budget", budget, "-o", folder / f"{name}.safetensors"
            ).code
            == 0
        )
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_what_a_command_reads_and_what_holds_it_stays(name: str, folder: Path, cli: Cli, tmp_path: Path) -> None:
    make, read, _ = COMMANDS[name]
    before = {file: (folder / file).read_bytes() for file in files_below(folder)}
    (tmp_path / "link").symlink_to(folder)
    weights = next(iter(read)) + ("/model.safetensors" if (folder / read[0]).is_dir() else "")
    for output in (*(folder / item for item in read), folder / weights, folder, tmp_path / "link"):
        done = cli(name.split()[0], *make(folder), "-o", output, "--force")
        assert (done.code, done.out) == (1, ""), output
        assert "the input" in done.err, done.err
    assert before == {file: (folder / file).read_bytes() for file in files_below(folder)}


@pytest.mark.parametrize("name", COMMANDS)
def test_what_stood_there_is_replaced_with_force_and_only_that(
    name: str, folder: Path, cli: Cli, tmp_path: Path
) -> None:
    make, _, is_folder = COMMANDS[name]
    out, beside = tmp_path / "out", tmp_path / "out.pulled"
    out.mkdir() if is_folder else out.write_text("old")
    beside.mkdir()
    assert "exists already" in cli(name.split()[0], *make(folder), "-o", out).err
    done = cli(name.split()[0], *make(folder), "-o", out, "--force")
    assert done.code == 0, done.err
    assert out.is_dir() == is_folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all", "out", "out.pulled"]
