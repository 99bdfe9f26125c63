"""Errors for memory that ran out, which torch reports in many words."""

from __future__ import annotations

import torch

_PHRASES = ("allocate memory", "out of memory", "not enough memory", "alloc_failed", "unable to allocate")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, of the host or of a device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in _PHRASES)
