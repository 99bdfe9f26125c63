"""Following: what a causal language model gives to tokens that are there already, those that count alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from graft.tasks.head import Head
from graft.tasks.language_model import logits_at


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
    logits, targets, counted = _run(head, rows)
    return logits[counted].float(), targets[counted]


def follow(head: Head, rows: Sequence[Flagged], *, batch_size: int, label: str) -> list[Followed]:
    """Follow rows, in evaluation mode and without gradients; one row's probabilities are held at a time.

    Args:
        head: over the model.
        rows: in any order; those of similar length share a batch.
        batch_size: rows at once.
        label: of the progress bar.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    followed: list[Any] = [None] * len(rows)
    with head.evaluating():
        for start in tqdm(range(0, len(order), batch_size), desc=label, disable=None, leave=False):
            chosen = order[start : start + batch_size]
            for i, logits, targets, counted in zip(chosen, *_run(head, [rows[i] for i in chosen]), strict=True):
                followed[i] = _read(logits[counted].float(), targets[counted])
    return followed


def _run(head: Head, rows: Sequence[Flagged]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return logits (n, m, vocabulary), true tokens and whether each counts (n, m), from the first that does on."""
    batch = head.pad([row.ids for row in rows])
    width = batch["input_ids"].shape[1]
    first = min((list(row.counts).index(True) for row in rows if True in row.counts), default=width - 1)
    positions = torch.arange(max(1, first), width)
    flags = [[*row.counts, *[False] * (width - len(row.counts))] for row in rows]
    counted = torch.tensor(flags)[:, positions].to(head.device)
    positions = positions.to(head.device)
    return logits_at(head.model, batch, positions - 1), batch["input_ids"][:, positions], counted


def _read(logits: torch.Tensor, targets: torch.Tensor) -> Followed:
    of_target = logits.log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1)
    return Followed(of_target.double().cpu().numpy(), (logits.argmax(-1) == targets).cpu().numpy())
