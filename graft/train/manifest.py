"""What a training leaves beside its weights: how it was made, and the print by which it can be known again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.errors import CheckpointError
from graft.specs.regularize import UNIFORM
from graft.specs.train import TrainSpec
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.hashing import digest_of
from graft.train.importance.importance_file import find_importance, load_importance
from graft.train.importance.importance_weights import ImportanceWeights

MANIFEST = "graft_training.json"


def read_importance(config: TrainSpec, base: Path) -> ImportanceWeights | None:
    """Read the importance by which a training is held: None where nothing holds it, or all weights alike.

    Raises:
        CheckpointError: the file of importance is missing or not valid.
    """
    if config.regularize is None or config.regularize.importance == UNIFORM:
        return None
    return load_importance(find_importance(config.regularize.importance, base))


def write_manifest(folder: Path, record: Mapping[str, Any], mark: str) -> None:
    """Leave the record of a training beside the weights that it made.

    Args:
        folder: with the weights.
        record: for people.
        mark: the print of the training's content (`graft.train.content`).
    """
    record = {**record, "print": mark, "weights": digest_of(Checkpoint.open(folder))}
    (folder / MANIFEST).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a training in a folder; empty where there is none that can be read."""
    try:
        record = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def find_manifest(folder: Path, mark: str) -> dict[str, Any] | None:
    """The record of the training of that print, if that is what the folder holds, with the weights that it left."""
    record = read_record(folder)
    if record.get("print") != mark:
        return None
    try:
        return record if record.get("weights") == digest_of(Checkpoint.open(folder)) else None
    except CheckpointError:
        return None
