"""Following: what a causal language model gives to tokens that are there already, those that count alone."""

from __future__ import annotations

from collections.abc import Sequence
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
            logits, targets = run_flagged(head, [rows[i] for i in chosen])
            sizes = [len(_places(rows[i])) for i in chosen]
            for i, *part in zip(chosen, torch.split(logits, sizes), torch.split(targets, sizes), strict=True):
                followed[i] = _read(*part)
    return followed


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


def _read(logits: torch.Tensor, targets: torch.Tensor) -> Followed:
    of_target = logits.float().log_softmax(-1).gather(1, targets.unsqueeze(1)).squeeze(1)
    return Followed(of_target.double().cpu().numpy(), (logits.argmax(-1) == targets).cpu().numpy())
