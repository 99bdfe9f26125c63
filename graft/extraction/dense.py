"""Dense: every difference in fp16 or fp32, deflated: what one pays for forgetting nothing."""

from __future__ import annotations

from graft.errors import ConfigError
from graft.extraction.extracted import Extracted, count_deflated, extract_deltas, store_halves
from graft.extraction.inputs import ExtractionInput


def extract_dense(inputs: ExtractionInput, n_bits: float) -> Extracted:
    """Store all differences in 16 or 32 bits each.

    Raises:
        ConfigError: another number of bits.
    """
    if n_bits not in (16, 32):
        raise ConfigError(f"dense: bits must be 16 or 32, not {n_bits:g}")
    differences = dict(inputs.deltas(matrices=True)) | dict(inputs.deltas(matrices=False))
    if n_bits == 32:
        deltas = {name: delta.clone for name, delta in differences.items()}
        return extract_deltas(inputs.pair, count_deflated(differences), deltas)
    stored, halves = store_halves(differences)
    return extract_deltas(inputs.pair, count_deflated(stored), halves)
