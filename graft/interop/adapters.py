"""Adapter folders of PEFT as files to import."""

from __future__ import annotations

from pathlib import Path

from graft.sources.adapters.imported_weights import ImportedWeights
from graft.sources.adapters.peft_adapter import open_adapter
from graft.sources.adapters.reading import read_adapter
from graft.tensors.checkpoint import Checkpoint


def import_lora(path: Path, base: Checkpoint) -> ImportedWeights:
    """Read a LoRA adapter; raise as `read_adapter`."""
    return read_adapter(open_adapter(path), base, "LORA")


def import_shira(path: Path, base: Checkpoint) -> ImportedWeights:
    """Read a SHiRA adapter; raise as `read_adapter`."""
    return read_adapter(open_adapter(path), base, "SHIRA")
