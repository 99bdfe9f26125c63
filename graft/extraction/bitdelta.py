"""BitDelta (Liu et al., arXiv 2402.10193): the signs of a difference, a bit each, and one scale per matrix.

    delta ~ alpha sign(delta),   alpha = mean |delta|

which is the nearest such matrix in L2; a sign of 0 counts as plus. More bits take what one leaves over in the same
way, as the paper's ablation does. What is no matrix is kept in fp16. The paper's second stage, which fits the scales to
the tuned model's outputs, is `graft.extraction.distilled_scales`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graft.extraction.extracted import Decode, Extracted, Stored, count_bytes, extract_deltas, store_halves
from graft.extraction.inputs import ExtractionInput


@dataclass(frozen=True, eq=False)
class SignedMatrix:
    """One bit of a difference.

    Attributes:
        bits: (ceil(out * in / 8),) uint8, a set bit for plus.
        scale: () fp32.
        shape: (out, in).
    """

    bits: torch.Tensor
    scale: torch.Tensor
    shape: torch.Size

    @classmethod
    def of(cls, delta: torch.Tensor) -> SignedMatrix:
        """Take the signs of a matrix, and its mean size."""
        padded = torch.nn.functional.pad((delta >= 0).flatten(), (0, -delta.numel() % 8)).view(-1, 8)
        bits = (padded * _WEIGHTS).sum(1, dtype=torch.uint8)
        return cls(bits, delta.abs().mean(), delta.shape)

    def signs(self) -> torch.Tensor:
        """Return (out, in) fp32 of -1 and 1."""
        is_plus = (self.bits[:, None] & _WEIGHTS) != 0
        return is_plus.flatten()[: self.shape.numel()].view(self.shape).float() * 2 - 1

    def decode(self) -> torch.Tensor:
        """Return scale * signs."""
        return self.signs() * self.scale


_WEIGHTS = 2 ** torch.arange(8, dtype=torch.uint8)


def extract_signs(inputs: ExtractionInput, n_bits: float) -> Extracted:
    """Take the signs of every changed matrix, so many times over what is left."""
    parts: dict[str, list[SignedMatrix]] = {}
    for name, delta in inputs.deltas(matrices=True):
        for _ in range(int(n_bits)):
            part = SignedMatrix.of(delta)
            parts.setdefault(name, []).append(part)
            delta = delta - part.decode()
    return store_signs(inputs, parts)


def store_signs(inputs: ExtractionInput, parts: dict[str, list[SignedMatrix]]) -> Extracted:
    """Store signs and scales beside the other changed tensors in fp16."""
    stored, deltas = store_halves(dict(inputs.deltas(matrices=False)))
    bits: Stored = {f"{name}.bits.{i}": part.bits for name, own in parts.items() for i, part in enumerate(own)}
    scales: Stored = {f"{name}.scale.{i}": part.scale for name, own in parts.items() for i, part in enumerate(own)}
    decoded: dict[str, Decode] = {name: _adder(own) for name, own in parts.items()}
    return extract_deltas(inputs.pair, count_bytes(stored | bits | scales), deltas | decoded)


def _adder(parts: list[SignedMatrix]) -> Decode:
    return lambda: torch.stack([part.decode() for part in parts]).sum(0)
