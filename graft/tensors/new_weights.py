"""Weights of a loaded model that are not its checkpoint's: those that the files lack, and those drawn anew.

Training has to know: a new weight trains whatever the scope is, since it says nothing yet, and a tensor of its name in
the base's files is another head's.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

_MARK = "graft_new_weights"


def mark_new(model: torch.nn.Module, names: Iterable[str]) -> None:
    """Note on a model that the weights of these names are new."""
    setattr(model, _MARK, frozenset(names))


def find_new(model: torch.nn.Module) -> frozenset[str]:
    """Return the names of a model's new weights; none where nobody has noted any."""
    names: frozenset[str] = getattr(model, _MARK, frozenset())
    return names
