"""A transformers pipeline with a skill grafted on, and without it again.

python examples/pipeline.py text-classification path/to/base skill.safetensors "a fine film"
"""

from __future__ import annotations

import sys
from typing import Any

from transformers import pipeline

import graft


def compare_outputs(kind: str, base: str, patch: str, texts: list[str]) -> tuple[Any, Any, Any]:
    """Return what a pipeline says before the graft, with it, and after it was taken off."""
    pipe = pipeline(kind, model=base)  # type: ignore[call-overload]
    before = pipe(texts)
    with graft.apply_patch(pipe.model, graft.load_patch(patch)):  # the one more line
        grafted = pipe(texts)
    return before, grafted, pipe(texts)


if __name__ == "__main__":
    for output in compare_outputs(*sys.argv[1:4], sys.argv[4:]):
        print(output)
