"""A thousand skills on one encoder: memory and time a skill, cost of a batch, the base after ten thousand batches."""

from __future__ import annotations

import ctypes
import time

import torch
from transformers import AutoModel

import graft
from graft.errors import GraftError
from graft.files.location import locate
from graft.tensors.dtypes import as_bits
from tests.benchmarks.compose import Peak
from tests.benchmarks.live import draw_patch
from tests.benchmarks.timing import ratio_of, times_in_turn

BASE, N_SKILLS, N_BATCHES, N_ROWS = "embedded:all-MiniLM-L6-v2", 1000, 10_000, 4


@torch.no_grad()
def measure(n_skills: int = N_SKILLS, n_batches: int = N_BATCHES) -> list[dict[str, object]]:
    """Rows of what was measured."""
    try:
        model = AutoModel.from_pretrained(locate(BASE).path).eval()
    except GraftError as error:
        return [{"what": "not measured", "figure": str(error)}]
    patches = [draw_patch(model, 1e-4, seed) for seed in range(n_skills)]
    before = {name: as_bits(tensor).clone() for name, tensor in model.state_dict().items()}
    mixed = graft.serve_patches(model)
    resident, start = _held(), time.thread_time()
    for number, patch in enumerate(patches):
        mixed.add(f"skill {number}", patch)
    table = [
        {
            "what": f"{n_skills:,} skills at 1e-4 added, ms each",
            "figure": f"{(time.thread_time() - start) * 1e3 / n_skills:.1f}",
        },
        {"what": "memory a skill", "figure": f"{(_held() - resident) * 1024 / n_skills / 1e3:.0f} kB"},
    ]
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20_000, (32, 24), generator=draw)

    def run(names: list[str | None], n_tokens: int = 24) -> None:
        with mixed.skills(names):
            model(input_ids=ids[: len(names), :n_tokens])

    def some(n: int) -> list[str | None]:
        return [f"skill {number}" for number in torch.randint(0, n_skills, (n,), generator=draw)]

    steps = [("base", lambda: model(input_ids=ids)), ("mixed", lambda: run(some(32)))]
    times = times_in_turn(steps, 15)
    table.append(
        {"what": "batch of 32 rows with skills drawn anew, x base", "figure": ratio_of(times["mixed"], times["base"])}
    )
    for _ in range(n_batches):
        run(some(N_ROWS), 6)
    mixed.close()
    changed = sum(int((as_bits(tensor) != before[name]).sum()) for name, tensor in model.state_dict().items())
    table.append({"what": f"weights changed after {n_batches:,} batches of {N_ROWS} rows", "figure": changed})
    return table


def _held() -> int:
    """KiB of anonymous memory, without what was freed and kept, which would hide what is needed."""
    ctypes.CDLL(None).malloc_trim(0)
    return Peak.now()
