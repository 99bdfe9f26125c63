"""Adapters of every known type, read as edits of their base."""

from __future__ import annotations

from graft.errors import CheckpointError
from graft.sources.adapters.imported_weights import ImportedWeights
from graft.sources.adapters.peft_adapter import Adapter
from graft.sources.registry import ADAPTERS
from graft.tensors.checkpoint import Checkpoint


def read_adapter(adapter: Adapter, base: Checkpoint, only: str | None = None) -> ImportedWeights:
    """Read what an adapter changes in its base, without computing it yet.

    Args:
        adapter: the adapter.
        base: the model that it belongs to.
        only: the type that it must be of; any that is known where absent.

    Raises:
        CheckpointError: it is of another type, of a variant with other arithmetic, or contradicts itself.
    """
    wanted = [only] if only else list(ADAPTERS)
    if adapter.kind not in wanted:
        raise CheckpointError(f"{adapter.where}: a PEFT adapter of type {adapter.kind!r}, not {' or '.join(wanted)}")
    weights: ImportedWeights = ADAPTERS[adapter.kind].load()(adapter, base)
    return weights
