"""Supports of a refit by name: those chosen by the refit's own loss, and every method of localization.

A new one is a function in this folder and one row here.
"""

from __future__ import annotations

from dataclasses import dataclass

from graft.localize.registry import LOCALIZATION_METHODS
from graft.registry import LayeredRegistry
from graft.scores.registry import ScoreEntry


@dataclass(frozen=True, kw_only=True)
class Support(ScoreEntry):
    """A way to choose the entries of a refit by its own loss.

    Its target is a function from `graft.refit.support.SupportContext` to a mask.
    """


SUPPORTS: LayeredRegistry[ScoreEntry] = LayeredRegistry(
    "support",
    [
        Support(
            name="gradient",
            help="the largest gradients of the refit's loss at the base",
            target="graft.refit.support:largest_gradients",
            needs_data=True,
            bytes_per_weight=4,
        ),
    ],
    below=LOCALIZATION_METHODS,
)
