"""A service over the tiny base with two skills, and clients that call it in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graft.localize.diff import diff_checkpoints
from graft.patch.format.writing import save_patch
from graft.patch.skill_patch import Patch
from graft.server.limits import Limits
from graft.server.opening import open_service
from graft.server.service import Service
from tests.models import copy_with
from tests.server.client import Client, running
from tests.shared_builds import build_once

TASK = {
    "name": "moods",
    "head": {"kind": "similarity", "texts": ["bad sorry", "good happy"]},
    "labels": ["sad", "glad"],
}
SMALL = Limits(body_bytes=20_000, texts=32, tokens=500, waiting=40, batch_rows=16, seconds=20, skills=6)


@pytest.fixture(scope="session")
def patches(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three patches of the tiny base: moods, which records its task; noise, which records none; few, which agrees."""

    def build(folder: Path) -> None:
        folder.mkdir()
        moods = diff_checkpoints(shelf / "base", shelf / "tuned", budget=300)
        save_patch(with_task(moods, TASK), folder / "moods.safetensors")
        copy_with(shelf / "base", folder / "other", lambda name, tensor: tensor.mul_(1.3))
        save_patch(diff_checkpoints(shelf / "base", folder / "other", budget=200), folder / "noise.safetensors")
        save_patch(
            with_task(diff_checkpoints(shelf / "base", shelf / "tuned", budget=30), TASK), folder / "few.safetensors"
        )

    folder = build_once(tmp_path_factory, "served", build)
    return {name: folder / f"{name}.safetensors" for name in ("moods", "noise", "few")}


@pytest.fixture(scope="module")
def service(shelf: Path, patches: dict[str, Path]) -> Iterator[Service]:
    return open_service(str(shelf / "base"), patches, token="a token of the tests", limits=SMALL, on_overlap="last")


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Client]:
    with running(service) as made:
        yield made


def with_task(patch: Patch, task: dict[str, Any]) -> Patch:
    import dataclasses

    return dataclasses.replace(patch, provenance=dataclasses.replace(patch.provenance, task=task))
