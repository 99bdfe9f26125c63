"""A grafted causal language model in lm-evaluation-harness, in this process: nothing merged, nothing copied.

pip install 'skillgraft[harness]'
python examples/lm_evaluation_harness.py path/to/base skill.safetensors arc_easy hellaswag
"""

from __future__ import annotations

import sys
from typing import Any

import lm_eval
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

import graft


def compare_results(base: str, patch: str, tasks: list[Any], device: str = "cpu", **how: Any) -> list[dict[str, Any]]:
    """Return the harness's results for the base and for the graft; `how` goes to `simple_evaluate`."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto").to(device)
    wrapped = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(base), device=device)
    before = lm_eval.simple_evaluate(model=wrapped, tasks=tasks, **how)
    with graft.apply_patch(model, graft.load_patch(patch)):
        grafted = lm_eval.simple_evaluate(model=wrapped, tasks=tasks, **how)
    return [before["results"], grafted["results"]]


if __name__ == "__main__":
    for name, result in zip(("base", "graft"), compare_results(*sys.argv[1:3], sys.argv[3:]), strict=True):
        print(name, result)
