"""Results of two processes, all from one start of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.chat_models import chat_rows, write_answers, write_chat_model
from tests.models import copy_with
from tests.shared_builds import build_once

ROOT = Path(__file__).parents[2]


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Start two processes on one core each, as a person would."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    more = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'cli'}", "OMP_NUM_THREADS": "1"}
    command = [*launcher, *map(str, arguments)]
    return subprocess.run(command, env=os.environ | more, capture_output=True, text=True, timeout=280, check=False)


def distance(left: Path, right: Path) -> float:
    """Return the largest difference between the weights of two folders of the same tensors."""
    one, two = (load_file(folder / "model.safetensors") for folder in (left, right))
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).abs().max()) for name in one)


@pytest.fixture(scope="session")
def folder(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the shelf with a base that drops nothing out: what one process draws, two cannot."""

    def build(folder: Path) -> None:
        for name in ("base", "tuned", "toy"):
            shutil.copytree(shelf / name, folder / name)
        config = json.loads((folder / "base" / "config.json").read_text())
        config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        (folder / "base" / "config.json").write_text(json.dumps(config))
        copy_with(folder / "base", folder / "narrow", lambda *_: None, torch.bfloat16)
        write_chat_model(folder / "chatting", steps=0)
        write_answers(folder / "answers")
        write_answers(folder / "chats", chat_rows, messages="messages")
        write_answers(folder / "cut", max_length=4)

    return build_once(tmp_path_factory, "parallel", build)


@pytest.fixture(scope="session")
def out(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the results of two processes, all from one start."""

    def build(out: Path) -> None:
        out.mkdir()
        run = torchrun(ROOT / "tests" / "parallel" / "worker.py", folder, out)
        assert run.returncode == 0, run.stderr
        (out / "said.json").write_text(json.dumps([run.stdout, run.stderr]))

    return build_once(tmp_path_factory, "parallel_out", build)


@pytest.fixture(scope="session")
def results(out: Path) -> Any:
    return json.loads((out / "results.json").read_text())
