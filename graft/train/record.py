"""What a training leaves beside its weights: how it was made, and the print by which it can be known again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graft.config import to_plain
from graft.tasks.regularize_spec import UNIFORM
from graft.tasks.spec import TrainSpec
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.prints import digest_of
from graft.train.importance.consolidation import Consolidation
from graft.train.importance.consolidation_file import digest_of_file, find_consolidation, load_consolidation

RECORD = "graft_training.json"
# where the examples come from; the print holds the examples themselves
_PLACES = ("data", "ood", "train", "seed")


def print_training(
    base: Path, tasks: Sequence[Task], config: TrainSpec, seed: int, dtype: str, core: str | None = None
) -> str:
    """64 hex digits over all that a training's weights depend on, the machine and the versions of packages aside.

    It covers every bit of the base, the examples of train and validation as drawn, head, labels and lengths, the
    train block, the seed, the dtype as asked for and the digest of what was protected. No path is in it.
    """
    asked = [digest_of(Checkpoint.open(base)), *(part for task in tasks for part in _asked_of(task))]
    asked += [describe_settings(config, base), seed, dtype, *([core] if core else [])]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _asked_of(task: Task) -> tuple[Any, Any]:
    spec = {key: value for key, value in to_plain(task.spec).items() if key not in _PLACES}
    return spec, [to_plain(split()) for split in (task.train_examples, task.validation_examples)]


def describe_settings(config: TrainSpec, base: Path) -> dict[str, Any]:
    """The train block as plain values; a file of importance by its digest instead of its path."""
    plain: dict[str, Any] = to_plain(config)
    if config.regularize is not None and config.regularize.importance != UNIFORM:
        plain["regularize"]["importance"] = digest_of_file(find_consolidation(config.regularize.importance, base))
    return plain


def read_held(config: TrainSpec, base: Path) -> Consolidation | None:
    """What a training is held by: None where nothing holds it, or all weights alike.

    Raises:
        CheckpointError: the file of importance is missing or not valid.
    """
    if config.regularize is None or config.regularize.importance == UNIFORM:
        return None
    return load_consolidation(find_consolidation(config.regularize.importance, base))


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a training in a folder; empty where there is none that can be read."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
