"""The manifest that a training leaves beside its weights: settings, metrics, and the hash that identifies it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.errors import CheckpointError
from graft.files.training_manifest import MANIFEST, read_manifest
from graft.specs.regularize import UNIFORM
from graft.specs.train import TrainSpec
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.hashing import digest_of
from graft.train.importance.importance_file import find_importance, load_importance
from graft.train.importance.importance_weights import ImportanceWeights


def read_importance(config: TrainSpec, base: Path) -> ImportanceWeights | None:
    """Read the importance that a training is regularized by; None without regularization, or with equal importance.

    Raises:
        CheckpointError: the file of importance is missing or not valid.
    """
    if config.regularize is None or config.regularize.importance == UNIFORM:
        return None
    return load_importance(find_importance(config.regularize.importance, base))


def write_manifest(folder: Path, manifest: Mapping[str, Any], content_hash: str) -> None:
    """Write the manifest of a training beside its weights.

    Args:
        folder: with the weights.
        manifest: settings and metrics, for people.
        content_hash: of the training's content (`graft.train.content`).
    """
    manifest = {**manifest, "print": content_hash, "weights": digest_of(Checkpoint.open(folder))}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def find_manifest(folder: Path, content_hash: str) -> dict[str, Any] | None:
    """Find the manifest of the training with that hash in its folder; None for another, or where the weights differ."""
    manifest = read_manifest(folder)
    if manifest.get("print") != content_hash:
        return None
    try:
        return manifest if manifest.get("weights") == digest_of(Checkpoint.open(folder)) else None
    except CheckpointError:
        return None
