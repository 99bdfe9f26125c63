"""The manifest that a training leaves beside its weights, as anyone reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MANIFEST = "graft_training.json"


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a training in a folder; empty where there is none that can be read."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def read_few(folder: Path) -> tuple[int, int] | None:
    """Read how many few weights alone a training let move, and how many of them changed; None of any other folder."""
    few = read_manifest(folder).get("changes")
    if not isinstance(few, dict):
        return None
    trained, changed = few.get("trained"), few.get("changed")
    return (trained, changed) if isinstance(trained, int) and isinstance(changed, int) else None
