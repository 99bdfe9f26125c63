"""Batching: texts of many requests as few padded batches, each row with its own skills."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from graft.errors import DataError
from graft.server.resident import Names, Resident
from graft.tasks.heads.similarity import SimilarityHead


@dataclass(frozen=True)
class Row:
    """One text, as the model reads it.

    Attributes:
        ids: token ids with the special ones.
        skills: what it is read with.
    """

    ids: list[int]
    skills: Names


def make_batches(rows: Sequence[Row], most_rows: int, most_tokens: int) -> Iterator[list[int]]:
    """Yield the positions of the rows of each batch: of similar length, and within it by skill.

    A batch holds `most_rows` rows and `most_tokens` tokens at most, padding included, or one row.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) == most_rows or (len(batch) + 1) * len(rows[i].ids) > most_tokens):
            yield sorted(batch, key=lambda j: rows[j].skills)
            batch = []
        batch.append(i)
    if batch:
        yield sorted(batch, key=lambda j: rows[j].skills)


def embed_rows(resident: Resident, rows: Sequence[Row], head: SimilarityHead | None = None) -> torch.Tensor:
    """Return (n, width) fp32 unit vectors on the CPU, each row with its own skills.

    Raises:
        DataError: one is not finite.
    """
    head, limits = head or resident.embedding, resident.limits
    vectors: list[torch.Tensor | None] = [None] * len(rows)
    with head.evaluating():
        for batch in make_batches(rows, limits.batch_rows, limits.batch_tokens):
            with resident.passing([rows[i].skills for i in batch]):
                of_batch = head.embed_batch(head.pad([rows[i].ids for i in batch])).cpu()
            for i, vector in zip(batch, of_batch, strict=True):
                vectors[i] = vector
    embedded = torch.stack([vector for vector in vectors if vector is not None])
    if not bool(embedded.isfinite().all()):
        raise DataError("the model's outputs on these texts are not finite")
    return embedded
