"""The choice of a row's next token, by its own generator: it does not depend on other rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Sampler:
    """Chooses the tokens of one request.

    Args:
        temperature: 0 for the likeliest token; else logits are divided by it.
        top_p: tokens are drawn among the likeliest whose probabilities add up to this (arXiv 1904.09751).
        seed: of the draws; None for others each time.
    """

    def __init__(self, temperature: float, top_p: float, seed: int | None) -> None:
        self.is_greedy = temperature == 0
        self._temperature, self._top_p = temperature, top_p
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def draw(self, logits: torch.Tensor) -> int:
        """Draw a token by its probability, from one uniform number.

        The number is looked up among the cumulated probabilities of the tokens from the likeliest on, so that logits
        that differ by rounding give the same token but where the number lies next to a boundary.

        Args:
            logits: (vocabulary,) of any dtype and device.
        """
        wide = logits.to("cpu", torch.float64)
        probabilities = ((wide - wide.max()) / self._temperature).softmax(-1)  # no temperature overflows then
        sorted_probabilities, tokens = probabilities.sort(descending=True, stable=True)
        sums = sorted_probabilities.cumsum(-1)
        n_kept = int((sums - sorted_probabilities < self._top_p).sum())
        drawn = torch.rand(1, generator=self._generator, dtype=torch.float64) * sums[n_kept - 1]
        place = int(torch.searchsorted(sums[:n_kept], drawn, right=True))
        return int(tokens[min(place, n_kept - 1)])


def choose_tokens(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[int | None]:
    """Choose a token for each of (rows, vocabulary) logits; None where NaN or infinity leave no choice."""
    largest, tokens = logits.float().max(-1)  # NaN where one is, and infinite where one is or all are -inf
    rows = zip(largest.isfinite().tolist(), tokens.tolist(), samplers, strict=True)
    return [
        None if not is_finite else token if sampler.is_greedy else sampler.draw(logits[row])
        for row, (is_finite, token, sampler) in enumerate(rows)
    ]
