"""The README keeps its word: its commands parse, its Python runs, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import torch
import yaml
from graft_cli.entry import COMMANDS, group

import graft
from graft.config import read_config
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.tasks.spec import TaskSpec
from graft.tensors.dtypes import spec_of
from graft.tensors.hashing import hash_values

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, flags=re.DOTALL)
COMMAND_LINES = [line for _, block in BLOCKS for line in block.splitlines() if line.startswith("graft ")]


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_a_command_line_parses(line: str) -> None:
    _, name, *arguments = shlex.split(line, comments=True)
    context = click.Context(group)
    command = group.get_command(context, name)
    assert command is not None
    command.make_context(name, arguments, parent=context)  # parses and checks, runs nothing


def test_every_command_is_shown() -> None:
    assert {line.split()[1] for line in COMMAND_LINES} == set(COMMANDS)


def test_the_python_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = next(block for kind, block in BLOCKS if kind == "python")
    model = torch.nn.Linear(4, 3)
    name, weight = "weight", model.weight
    values = torch.tensor([7.0, 8.0])
    mask = Mask.of({name: spec_of(weight)}, {name: [1, 5]})
    patch = Patch(mask, {name: values}, {name: hash_values(weight.detach().flatten()[[1, 5]])})
    graft.save_patch(patch, tmp_path / "skill.safetensors")
    monkeypatch.chdir(tmp_path)
    before = weight.detach().clone()
    code = code.replace("from transformers import AutoModel\n", "").replace(
        'AutoModel.from_pretrained("path/to/base")', "given"
    )
    scope = {"given": model}
    exec(compile(code.replace("    ...", "    inside = model.weight.detach().clone()"), "README.md", "exec"), scope)
    assert not torch.equal(scope["inside"], before)
    assert torch.equal(weight, before)
    assert scope["frozen_region"] == mask


def test_the_task_block_is_a_valid_task() -> None:
    code = next(block for kind, block in BLOCKS if kind == "yaml")
    assert read_config(TaskSpec, yaml.safe_load(code), "README.md").shots == 256


@pytest.mark.parametrize("page", ["README.md", "docs/results.md", "docs/cluster.md", "CONTRIBUTING.md"])
def test_links_and_pictures_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    local = [link for link in links if not link.startswith("http")]
    assert [link for link in local if not (ROOT / page).parent.joinpath(link).exists()] == []
    assert local or page != "README.md"
    assert "@@" not in text
