"""Pruned and quantized differences, in the style of UltraDelta (Wang et al., arXiv 2505.13563).

After the paper's description: every matrix is quantized uniformly to 4 bits between its extremes; of each of its
values an equal share of entries, drawn at random, is dropped, so that the distribution stays; matrices that vary little
lose `STEP` more than the mean share, those that vary much lose less, so that the mean holds; what is kept is multiplied
by 1 / (1 - mean share). The authors' further factor by trace norms compares several tasks, and is 1 for a single one.
What is no matrix is left out, as there. A file holds gaps between kept entries, their 4-bit codes, and two extremes a
matrix; it is deflated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graft.extraction.extracted import Decode, Extracted, Stored, count_deflated, extract_deltas
from graft.extraction.inputs import ExtractionInput
from graft.patch.format.coding import encode_gaps

LEVELS = 15  # steps between the extremes: 4 bits
STEP = 0.01


@dataclass(frozen=True, eq=False)
class PrunedMatrix:
    """Few entries of a matrix as codes of 4 bits.

    Attributes:
        indices: (k,) int64, ascending.
        codes: (k,) uint8, 0 to 15.
        extremes: (2,) fp32, the values of codes 0 and 15.
        factor: by which kept values are multiplied.
        shape: (out, in).
    """

    indices: torch.Tensor
    codes: torch.Tensor
    extremes: torch.Tensor
    factor: float
    shape: torch.Size

    @classmethod
    def of(cls, delta: torch.Tensor, share: float, factor: float, generator: torch.Generator) -> PrunedMatrix:
        """Quantize a matrix and drop a share of each value's entries."""
        flat, extremes = delta.flatten(), torch.stack([delta.min(), delta.max()])
        width = (extremes[1] - extremes[0]).clamp_min(torch.finfo(torch.float32).tiny)
        codes = ((flat - extremes[0]) / width * LEVELS).round().to(torch.uint8)
        kept = [_keep(codes, code, share, generator) for code in range(LEVELS + 1)]
        indices = torch.cat(kept).sort().values
        return cls(indices, codes[indices], extremes, factor, delta.shape)

    def stored(self) -> Stored:
        """Return what a file would hold."""
        codes = torch.nn.functional.pad(self.codes, (0, len(self.codes) % 2)).view(-1, 2)
        gaps = torch.from_numpy(encode_gaps(self.indices.numpy()))
        return {"gaps": gaps, "codes": codes[:, 0] * 16 + codes[:, 1], "extremes": self.extremes}

    def decode(self) -> torch.Tensor:
        """Return the matrix, 0 where an entry was dropped."""
        low, high = self.extremes
        values = (low + self.codes.float() / LEVELS * (high - low)) * self.factor
        return torch.zeros(self.shape.numel()).index_copy_(0, self.indices, values).view(self.shape)


def extract_pruned(inputs: ExtractionInput, sparsity: float) -> Extracted:
    """Quantize and prune every changed matrix to a mean sparsity."""
    generator = torch.Generator().manual_seed(inputs.seed)
    shares = allocate_sparsity(
        {name: (float(delta.std()), delta.numel()) for name, delta in inputs.deltas(matrices=True)}, sparsity
    )
    stored: Stored = {}
    deltas: dict[str, Decode] = {}
    for name, delta in inputs.deltas(matrices=True):
        part = PrunedMatrix.of(delta, shares[name], 1 / (1 - sparsity), generator)
        stored |= {f"{name}.{key}": tensor for key, tensor in part.stored().items()}
        deltas[name] = part.decode
    return extract_deltas(inputs.pair, count_deflated(stored), deltas)


def allocate_sparsity(spreads: dict[str, tuple[float, int]], mean: float) -> dict[str, float]:
    """Return each matrix's sparsity: more for the third of all entries that varies least, less for the last third.

    Args:
        spreads: name -> standard deviation, number of entries.
        mean: over all entries.
    """
    total, before = sum(n for _, n in spreads.values()), 0
    step, shares = min(STEP, (1 - mean) / 2), {}
    for name in sorted(spreads, key=lambda name: spreads[name]):
        before += spreads[name][1]
        third = min(2, (3 * before - 1) // total)
        shares[name] = mean + step * (1 - third)
    excess = sum(spreads[name][1] * (share - mean) for name, share in shares.items()) / total
    return {name: min(1.0, max(0.0, share - excess)) for name, share in shares.items()}


def _keep(codes: torch.Tensor, code: int, share: float, generator: torch.Generator) -> torch.Tensor:
    """Return the (k,) indices of one code's entries that stay."""
    own = (codes == code).nonzero().squeeze(1)
    order = torch.randperm(len(own), generator=generator)
    # a fraction of an entry is the chance of one more: rounded, the rare codes, which move most, would all be dropped
    part = float(torch.rand((), generator=generator, dtype=torch.float64))
    return own[order[: int(len(own) * (1 - share) + part)]]
