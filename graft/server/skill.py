"""Skill: what the server knows of one of its patches."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from graft.errors import ConfigError, PatchFormatError
from graft.files.location import locate_patch
from graft.patch.format.declaration import FILE_NAME
from graft.patch.format.reading import load_patch
from graft.patch.skill_patch import Patch
from graft.patch.summary import describe_patch
from graft.server.forms import check_name
from graft.server.recorded_task import read_task
from graft.specs.task import TaskSpec

MOST_CARD_BYTES = 2**16  # of what everybody who asks for the skills is told of one
_CARD = ("k", "density", "bytes", "values", "method", "metrics", "licence", "tool", "base")


@dataclass(frozen=True, eq=False)
class Skill:
    """A patch with what requests may ask of it.

    Attributes:
        name: in requests.
        patch: its entries.
        source: where it came from, without any path of this machine.
        n_bytes: of its file.
        card: what is told of the patch: plain values.
        task: whose labels it reads; None without one, and `why_no_task` says why.
        why_no_task: a line.
        temperature: what its logits are divided by; None where nobody fitted one.
    """

    name: str
    patch: Patch
    source: str
    n_bytes: int
    card: Mapping[str, Any]
    task: TaskSpec | None = None
    why_no_task: str = ""
    temperature: float | None = None

    @cached_property
    def description(self) -> dict[str, Any]:
        """Name, task, card, and where its entries lie, layer by module: plain values."""
        task = None
        if self.task is not None:
            pair = not isinstance(self.task.text, str)
            task = {"name": self.task.name, "head": self.task.head.kind, "labels": list(self.task.labels), "pair": pair}
            task["max_length"] = self.task.max_length
        return {
            "name": self.name,
            "source": self.source,
            "bytes": self.n_bytes,
            "task": task,
            "why_no_task": self.why_no_task,
            "temperature": self.temperature,
            "card": self.card,
            "map": _map(self.patch),
        }


def open_skill(name: str, reference: str) -> Skill:
    """Load and check a patch: a local file or folder, or a Hub id.

    Raises:
        ConfigError: no skill can have the name.
        PatchFormatError, HubError, CheckpointError: as `load_patch` and `locate_patch`.
    """
    require_name(name)
    located = locate_patch(reference, FILE_NAME)
    return read_skill(name, located.path, located.id or located.name)


def require_name(name: str) -> None:
    """Refuse a name that no skill can have.

    Raises:
        ConfigError: saying what it may be.
    """
    try:
        check_name(name)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def read_skill(name: str, path: Path, source: str) -> Skill:
    """Load and check a patch file, or a folder's; read the task that it records.

    Raises:
        PatchFormatError: it is no patch, or its card is too long to be told.
    """
    patch = load_patch(path)
    file = path / FILE_NAME if path.is_dir() else path
    n_bytes = file.stat().st_size
    card = _write_card(patch, n_bytes)
    card_bytes = len(json.dumps(card))
    if card_bytes > MOST_CARD_BYTES:
        fact = f"method, metrics and licence of the patch have {card_bytes:,} bytes, more than {MOST_CARD_BYTES:,}"
        raise PatchFormatError(f"{path}: {fact}")
    try:
        return Skill(name, patch, source, n_bytes, card, read_task(patch))
    except ConfigError as error:
        return Skill(name, patch, source, n_bytes, card, None, str(error)[:300])


def _write_card(patch: Patch, n_bytes: int) -> dict[str, Any]:
    described = describe_patch(patch, n_bytes, patch.provenance)
    return {key: described[key] for key in _CARD if described.get(key) is not None}


def _map(patch: Patch) -> dict[str, Any]:
    from graft.report.plots.layer_map import count_entries

    layers, modules, counts = count_entries(patch.mask)
    return {"layers": layers, "modules": modules, "counts": counts.tolist()}
