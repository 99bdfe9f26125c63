"""Patches and masks named on a command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def locate_regions(references: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Locate patches and masks, local or on the Hub; return their files, and labels that hold no path."""
    from graft.files.location import is_on_hub, locate_patch
    from graft.patch.format.declaration import FILE_NAME

    paths = [locate_patch(reference, FILE_NAME).path for reference in references]
    labels = [
        reference if is_on_hub(reference) else _label(Path(reference).expanduser().resolve())
        for reference in references
    ]
    return paths, labels


def load_regions(references: Sequence[str]) -> list[Any]:
    """Load patches and masks, local or on the Hub, as `Patch` and `Mask`."""
    from graft.patch.format.reading import load_region

    return [load_region(path)[0] for path in locate_regions(references)[0]]


def load_with_provenance(reference: str) -> tuple[Any, Any]:
    """Load one patch or mask, local or on the Hub, with its provenance."""
    from graft.patch.format.reading import load_region

    return load_region(locate_regions([reference])[0][0])


def _label(path: Path) -> str:
    """Name a region by its file, or by its folder where the file has the default name of a patch."""
    return path.parent.name if path.name == "patch.safetensors" else path.name.removesuffix(".safetensors")
