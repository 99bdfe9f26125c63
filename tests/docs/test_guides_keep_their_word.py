"""What guides promise of their own blocks, beyond that these run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

import graft
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.specs.reader import read_config
from graft.specs.task import TaskSpec
from graft.tensors.dtypes import spec_of
from graft.tensors.hashing import hash_values
from tests.docs.blocks import ROOT, read_blocks


def test_a_graft_is_on_within_the_block_and_off_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = next(block.code for block in read_blocks("docs/guides/interop.md") if block.language == "python")
    model = torch.nn.Linear(4, 3)
    name, weight = "weight", model.weight
    values = torch.tensor([7.0, 8.0])
    mask = Mask.of({name: spec_of(weight)}, {name: [1, 5]})
    patch = Patch(mask, {name: values}, {name: hash_values(weight.detach().flatten()[[1, 5]])})
    graft.save_patch(patch, tmp_path / "skill.safetensors")
    monkeypatch.chdir(tmp_path)
    before = weight.detach().clone()
    code = re.sub(
        r"^(from transformers import AutoModel|from graft.files.location .*|BASE = .*)\n", "", code, flags=re.M
    )
    code = code.replace("AutoModel.from_pretrained(BASE)", "given")
    scope = {"given": model}
    exec(compile(code.replace("    ...", "    inside = model.weight.detach().clone()"), "interop.md", "exec"), scope)
    assert not torch.equal(scope["inside"], before)
    assert torch.equal(weight, before)
    assert scope["region"] == mask


def test_the_task_of_the_guide_is_a_valid_task() -> None:
    code = next(block.code for block in read_blocks("docs/guides/tasks.md") if block.file == "my_task.yaml")
    assert read_config(TaskSpec, yaml.safe_load(code), "tasks.md").shots == 64


def test_the_recipe_that_a_guide_shows_is_the_one_that_it_says_to_run() -> None:
    shown = next(block.code for block in read_blocks("docs/guides/localize.md") if block.language == "yaml")
    lines = (ROOT / "recipes" / "quickstart.yaml").read_text(encoding="utf-8").splitlines(keepends=True)
    assert shown == "".join(line for line in lines if not line.startswith("#"))
