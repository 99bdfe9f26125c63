"""The record that a refit leaves in a patch, read for people: the file may be a stranger's, and its record anything."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graft.patch.provenance import Provenance

REFIT = "refit"  # `Provenance.values` of a patch whose values were fitted to a tuned model's outputs
MIXED = "mixed"  # of one composed of such and others
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class RefitRecord:
    """What a patch says of its refit; None for whatever it does not say, or not in the way that a refit writes it.

    Attributes:
        teacher: digest of the tuned checkpoint, 64 hex digits.
        n_texts: number of texts that values were fitted to.
        texts: SHA-256 of these texts.
        epoch: passes over the texts before the values that were kept.
        kind: "start", "last" or "mean", as in `graft.refit.fitting.Candidate`.
    """

    teacher: str | None = None
    n_texts: int | None = None
    texts: str | None = None
    epoch: int | None = None
    kind: str | None = None

    def facts(self) -> list[str]:
        """Return what is known, a phrase each."""
        phrases = (
            None if self.n_texts is None else f"{self.n_texts:,} texts",
            None if self.texts is None else f"of sha256 {self.texts[:16]}…",
            None if self.teacher is None else f"teacher {self.teacher[:16]}…",
            None if self.epoch is None else f"kept epoch {self.epoch}" + (f" ({self.kind})" if self.kind else ""),
        )
        return [phrase for phrase in phrases if phrase is not None]


def read_record(provenance: Provenance) -> RefitRecord:
    """Read what a patch says of its refit; never an error."""
    record = provenance.refit
    texts, kept = _mapping(record.get("texts")), _mapping(record.get("kept"))
    kind = kept.get("kind")
    return RefitRecord(
        teacher=_digest(record.get("teacher")),
        n_texts=_count(texts.get("n")),
        texts=_digest(texts.get("sha256")),
        epoch=_count(kept.get("epoch")),
        kind=kind if isinstance(kind, str) and kind in ("start", "last", "mean") else None,
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _digest(value: Any) -> str | None:
    return value if isinstance(value, str) and _DIGEST.fullmatch(value) else None


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 2**63 else None
