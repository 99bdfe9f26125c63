"""Embeddings of tokens: the rows of patched tokens get the skill's values, which are those of the graft bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from graft.mixture.entries import Owned
from graft.mixture.rows import Run
from graft.mixture.sites.site import Arguments, Site


@dataclass(frozen=True, eq=False)
class TokenContent:
    """A skill's entries of a table of embeddings, token by token.

    Attributes:
        tokens: (t,) int64 the tokens that have entries, ascending.
        starts: (t + 1,) int64: where the entries of each begin.
        columns, values: (k,) of the entries.
    """

    tokens: torch.Tensor
    starts: torch.Tensor
    columns: torch.Tensor
    values: torch.Tensor


class EmbeddingSite(Site[TokenContent]):
    """A table of embeddings that is called with the tokens of every row."""

    may_share = True

    def prepare(self, entries: Owned) -> TokenContent:
        """Sort the entries by their token."""
        entry = entries["weight"]
        indices, order = entry.indices.sort()
        width = self.weight.shape[1]
        tokens, counts = (indices // width).unique_consecutive(return_counts=True)  # type: ignore[no-untyped-call]
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return TokenContent(tokens, starts, indices % width, entry.values[order])

    def change(self, arguments: Arguments, output: Any, runs: tuple[Run, ...]) -> torch.Tensor:
        """Write the skill's values at each of its tokens in the rows of its runs."""
        args, kwargs = arguments
        tokens = args[0] if args else kwargs["input"]
        if tokens.shape[0] == 1 < self.call.n_rows:  # positions, the same for every row
            tokens = tokens.expand(self.call.n_rows, *tokens.shape[1:])
            output = output.expand(self.call.n_rows, *output.shape[1:])
        if tokens.shape[0] != self.call.n_rows:
            raise self.refuse_rows(tokens)
        result: torch.Tensor = output.clone(memory_format=torch.contiguous_format)
        for run in runs:
            rows = result[run.rows]
            _write(self.contents[run.skill], tokens[run.rows].flatten(), rows.view(-1, rows.shape[-1]))
        return result


def _write(content: TokenContent, tokens: torch.Tensor, output: torch.Tensor) -> None:
    """Write a skill's values into (n, width) embeddings of (n,) tokens, in place."""
    places = torch.searchsorted(content.tokens, tokens).clamp_(max=len(content.tokens) - 1)
    found = (content.tokens[places] == tokens).nonzero()[:, 0]
    first, counts = content.starts[places[found]], content.starts.diff()[places[found]]
    rows = found.repeat_interleave(counts)
    within = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    entries = first.repeat_interleave(counts) + within
    output[rows, content.columns[entries]] = content.values[entries]
