"""Rows of a mixed batch beside the rows of each skill's own grafted model on the same batch: how far they differ.

Skills at 1e-4 of random entries over the matrices of all layers, as many as rows but where said, and those that the
recipes found, as they lie under artifacts/. The grafted model is run on the whole batch for up to eight of the rows.
Last tokens: those that the largest logit chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoModelForCausalLM

import graft
from graft.errors import GraftError
from graft.files.location import locate
from graft.patch.skill_patch import Patch
from graft.tasks.placement import speed_up_products
from tests.benchmarks.live import draw_patch

ENCODER, DECODER, TOKENS = "embedded:all-MiniLM-L6-v2", "embedded:SmolLM2-135M-Instruct", 24
CASES: Sequence[tuple[str, torch.dtype, Sequence[tuple[int, int]]]] = (  # base, dtype, (rows, skills)
    (ENCODER, torch.float32, ((1, 1), (4, 4), (16, 16), (64, 64), (64, 8))),
    (ENCODER, torch.bfloat16, ((1, 1), (64, 64))),
    (DECODER, torch.float32, ((1, 1), (8, 8), (32, 32))),
    (DECODER, torch.bfloat16, ((1, 1), (8, 8), (32, 32))),
)
Row = dict[str, object]


@torch.no_grad()
def measure(cases: Sequence[tuple[str, torch.dtype, Sequence[tuple[int, int]]]] = CASES) -> Iterator[Row]:
    """Two rows a case: as rows are computed by default, and exactly."""
    for base, dtype, sizes in cases:
        try:
            path = locate(base).path
        except GraftError as error:
            yield {"base": base, "reason": str(error)}
            continue
        kind: Any = AutoModel if base == ENCODER else AutoModelForCausalLM
        model = kind.from_pretrained(path, dtype=dtype).eval()
        speed_up_products(model)  # as every command does, where the processor is slow at bfloat16
        about = {"base": base.removeprefix("embedded:"), "dtype": str(dtype).removeprefix("torch.")}
        for n_rows, n_skills in sizes:
            drawn = {f"skill {seed}": draw_patch(model, 1e-4, seed) for seed in range(n_skills)}
            for row in compare_rows(model, drawn, n_rows):
                yield about | {"of": "random"} | row
        if found := find_skills(base, model.dtype):
            for row in compare_rows(model, found, 32):
                yield about | {"of": "recipes"} | row


def find_skills(base: str, dtype: torch.dtype) -> dict[str, Patch]:
    """The patches of recipes' first seeds on this base, in this dtype, by their paths."""
    files = sorted(Path("artifacts").glob("*/patches/*-seed-0.safetensors"))
    patches = {str(file): graft.load_patch(file) for file in files}
    return {
        name: patch
        for name, patch in patches.items()
        if str(patch.provenance.base.name).startswith(base.removeprefix("embedded:"))
        and {values.dtype for values in patch.values.values()} == {dtype}
    }


def compare_rows(model: Any, patches: dict[str, Patch], n_rows: int) -> Iterator[Row]:
    """Compare rows of a batch with the grafted model's, by default and exactly."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20_000, (n_rows, TOKENS), generator=generator)
    run: Callable[[], torch.Tensor] = lambda: _outputs(model, ids)  # noqa: E731
    names = list(patches)
    rows = [names[row % len(names)] for row in range(n_rows)]
    looked_at = sorted({round(row * (n_rows - 1) / 7) for row in range(8)})
    wanted = {}
    for row in looked_at:
        with graft.apply_patch(model, patches[rows[row]]):
            wanted[row] = run()[row]
    base = run()
    with graft.serve_patches(model, patches) as mixed:
        for exact in (False, True):
            with mixed.skills(rows, exact=exact):
                found = run()
            yield {"rows": n_rows, "skills": len(patches), "exact": exact} | _describe(
                torch.stack([found[row] for row in looked_at]),
                torch.stack(list(wanted.values())),
                torch.stack([base[row] for row in looked_at]),
            )


def _outputs(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return the last hidden states of an encoder, or the logits of a decoder's last eight tokens."""
    if hasattr(model, "lm_head"):
        logits: torch.Tensor = model(input_ids=ids, logits_to_keep=8, use_cache=False).logits
        return logits
    states: torch.Tensor = model(input_ids=ids).last_hidden_state
    return states


def _describe(found: torch.Tensor, wanted: torch.Tensor, base: torch.Tensor) -> Row:
    far, moved = (found.float() - wanted.float()).abs(), (base.float() - wanted.float()).abs()
    tokens = found.argmax(-1) != wanted.argmax(-1)
    return {
        "largest difference": f"{far.max():.2g}",
        "of what the skill changes": f"{far.max() / moved.max():.1g}",
        "outputs that differ": f"{(found != wanted).float().mean():.4f}",
        "likeliest that differ": f"{tokens.float().mean():.4f}",
    }
