"""SVD: each changed matrix's difference as two thin factors, as mergekit's extract-lora makes an adapter.

    delta = U S V'   ->   B = U_r sqrt(S_r), A = sqrt(S_r) V_r'

mergekit (arXiv 2403.13257) writes the factors in the checkpoint's dtype; here they are in fp16, half of that for an
fp32 base. By default it also writes norms and embeddings whole; here whatever is no matrix is left out, as with
its --skip-undecomposable, and so is a matrix that did not change. Both make the file smaller.
"""

from __future__ import annotations

from functools import partial

import torch

from graft.extraction.extracted import Decode, Extracted, Stored, count_bytes, extract_deltas
from graft.extraction.inputs import ExtractionInput


def extract_svd(inputs: ExtractionInput, rank: float) -> Extracted:
    """Truncate the SVD of every changed matrix to a rank."""
    stored: Stored = {}
    deltas: dict[str, Decode] = {}
    for name, delta in inputs.deltas(matrices=True):
        a, b = factorize(delta, int(rank))
        module = f"base_model.model.{name.removesuffix('.weight')}"
        stored |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
        deltas[name] = partial(_multiply, a, b)
    return extract_deltas(inputs.pair, count_bytes(stored), deltas)


def factorize(delta: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the fp16 factors A (r, in) and B (out, r) whose product B A is nearest to an (out, in) difference."""
    u, s, v = torch.linalg.svd(delta, full_matrices=False)
    root = s[:rank].sqrt()
    a, b = root[:, None] * v[:rank], u[:, :rank] * root
    return a.half().contiguous(), b.half().contiguous()


def _multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return b.float() @ a.float()
