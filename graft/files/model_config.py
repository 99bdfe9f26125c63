"""A model folder's config.json as it is written, before any library interprets it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from graft.errors import CheckpointError
from graft.files.inputs import open_input

_COUNTS = re.compile(r"layers?$|labels$|experts$|blocks?$")  # keys that say how many modules are built, one by one
_MAX_COUNT = 100_000


def read_model_config(folder: Path) -> dict[str, Any]:
    """Read what a folder's config.json holds; empty where there is none that can be read."""
    try:
        with open_input(folder / "config.json") as file:
            config = json.loads(file.read())
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def architecture_in(folder: Path) -> str | None:
    """Return the class that a folder's config names, which this version of transformers need not know."""
    architectures = read_model_config(folder).get("architectures")
    return str(architectures[0]) if isinstance(architectures, list) and architectures else None


def modules_in(folder: Path) -> set[str]:
    """Return the folders that a sentence encoder's modules.json names: whatever they are called, they are its parts."""
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        paths = [module.get("path") for module in modules]
        return {path for path in paths if path and isinstance(path, str)}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return set()


def refuse_oversized(folder: Path) -> None:
    """Refuse a config that asks for so many layers, labels or experts that building them would never end.

    Raises:
        CheckpointError: naming the key.
    """
    for key, value in read_model_config(folder).items():
        if type(value) is int and value > _MAX_COUNT and _COUNTS.search(key):
            raise CheckpointError(f"{folder / 'config.json'}: {key} is {value:,}: no model has as many")


def refuse_pipes(folder: Path) -> None:
    """Refuse a folder with something in it that a library would wait for, or read without end.

    Raises:
        CheckpointError: naming it.
    """
    for file in folder.iterdir():
        if file.exists() and not (file.is_file() or file.is_dir()):
            raise CheckpointError(f"{file}: a pipe or device, not a file")
