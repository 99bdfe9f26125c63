"""The plan of a server: what is planned beside what it takes."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from graft.localize.diff import diff_checkpoints
from graft.memory.plan import MemoryPlan
from graft.memory.serve import MOST_TOKENS, PER_ENTRY, PER_TENSOR, plan_serving
from graft.patch.skill_patch import Patch
from graft.specs.runtime import Runtime
from graft.tensors.checkpoint import Checkpoint
from tests.models import write_llama

SIZES = {"most_rows": 8, "most_tokens": 100, "runtime": Runtime(device="cpu")}


def bytes_of(plan: MemoryPlan) -> list[int | None]:
    return [part.bytes for part in plan.parts]


def test_parts_are_weights_skills_and_the_largest_batch(base: Path, tuned: Path) -> None:
    checkpoint = Checkpoint.open(base)
    patches = [diff_checkpoints(base, tuned, budget=k) for k in (30, 50)]
    plan = plan_serving(checkpoint, patches, writes=False, **SIZES)  # type: ignore[arg-type]
    n_tensors = sum(len(patch.mask.specs) for patch in patches)
    assert bytes_of(plan)[:2] == [4 * checkpoint.n_parameters, 80 * PER_ENTRY + n_tensors * PER_TENSOR]
    assert [part.what for part in plan.parts][1:] == ["2 skills, 80 entries", "activations, a batch of 3 x 32 tokens"]
    fewer = plan_serving(checkpoint, [], writes=False, **SIZES | {"most_rows": 1})  # type: ignore[arg-type]
    assert bytes_of(fewer)[-1] < bytes_of(plan)[-1]  # type: ignore[operator]


def test_keys_and_values_are_those_that_a_model_keeps(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "llama")
    plan = plan_serving(Checkpoint.open(folder), [], writes=True, **SIZES)  # type: ignore[arg-type]
    cache = DynamicCache()
    with torch.no_grad():
        AutoModelForCausalLM.from_pretrained(folder)(
            input_ids=torch.ones(1, 5, dtype=torch.int64), past_key_values=cache
        )
    of_token = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) // 5
    assert bytes_of(plan)[-1] == 2 * MOST_TOKENS * of_token


def test_a_base_of_no_known_architecture_leaves_its_batch_unknown(base: Path) -> None:
    (base_file,) = base.glob("*.safetensors")
    patch: list[Patch] = []
    plan = plan_serving(Checkpoint.open(base_file), patch, writes=True, **SIZES)  # type: ignore[arg-type]
    assert bytes_of(plan)[1:] == [None, None]
