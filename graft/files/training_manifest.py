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


def read_few(folder: Path) -> int:
    """Read how many weights alone a training of few let move; 0 of any other folder."""
    changes = read_manifest(folder).get("changes")
    trained = changes.get("trained") if isinstance(changes, dict) else None
    return trained if isinstance(trained, int) else 0
