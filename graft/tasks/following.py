"""Following: what a causal language model gives to tokens that are there already, those that count alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from graft.tasks.head import Head
from graft.tasks.language_model import logits_of


class Flagged(NamedTuple):
    """A row's tokens, and for each whether it counts; the first never does, since nothing is before it."""

    ids: Sequence[int]
    counts: Sequence[bool]


class Followed(NamedTuple):
    """The tokens of a row that count: (m,) each."""

    log_p: np.ndarray  # fp64, ln of its probability after those before it, nats
    is_best: np.ndarray  # bool, whether it is the most probable one


def predict_flagged(head: Head, rows: Sequence[Flagged]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return fp32 logits (m, vocabulary) and true tokens (m,) of all that count, row after row; gradients flow."""
    logits, targets = run_flagged(head, rows)
    return logits.float(), targets


def follow(
    head: Head, rows: Sequence[Flagged], *, batch_size: int, label: str, temperature: float = 1.0
) -> list[Followed]:
    """Follow rows, in evaluation mode and without gradients; one row's probabilities are held at a time.

    Args:
        head: over the model.
        rows: in any order.
        batch_size: rows at once.
        label: of the progress bar.
        temperature: what divides the logits.
    """
    followed: list[Any] = [None] * len(rows)
    with head.evaluating():
        for i, logits, targets in each_flagged(head, rows, batch_size=batch_size, label=label):
            log_p = _log_p(logits.float() / temperature, targets)
            followed[i] = Followed(log_p.double().cpu().numpy(), (logits.argmax(-1) == targets).cpu().numpy())
    return followed


def nll_at(
    head: Head, rows: Sequence[Flagged], temperatures: Sequence[float], *, batch_size: int, label: str
) -> np.ndarray:
    """Return (n,) fp64: the mean of -ln p over all tokens that count, nats, with logits divided by each temperature."""
    totals, n_tokens = np.zeros(len(temperatures)), 0
    with head.evaluating():
        for _, logits, targets in each_flagged(head, rows, batch_size=batch_size, label=label):
            wide = logits.float()
            totals -= [float(_log_p(wide / one, targets).double().sum()) for one in temperatures]
            n_tokens += len(targets)
    return totals / max(1, n_tokens)


def each_flagged(
    head: Head, rows: Sequence[Flagged], *, batch_size: int, label: str
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Yield each row's position, logits and true tokens as `run_flagged` has them.

    Rows of similar length share a batch, so that they come in another order.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    for start in tqdm(range(0, len(order), batch_size), desc=label, disable=None, leave=False):
        chosen = order[start : start + batch_size]
        logits, targets = run_flagged(head, [rows[i] for i in chosen])
        sizes = [len(_places(rows[i])) for i in chosen]
        yield from zip(chosen, torch.split(logits, sizes), torch.split(targets, sizes), strict=True)


def run_flagged(head: Head, rows: Sequence[Flagged]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (m, vocabulary), in the model's dtype, and true tokens (m,) of all that count, row after row."""
    batch = head.pad([row.ids for row in rows])
    width = batch["input_ids"].shape[1]
    counted = [(number, place) for number, row in enumerate(rows) for place in _places(row)]
    before = torch.tensor([number * width + place - 1 for number, place in counted], dtype=torch.int64)
    targets = torch.tensor([rows[number].ids[place] for number, place in counted], dtype=torch.int64)
    return logits_of(head.model, batch, before), targets.to(head.device)


def _places(row: Flagged) -> list[int]:
    return [place for place, flag in enumerate(row.counts) if flag and place]


def _log_p(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1)
