from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from graft.localize.diff import diff_checkpoints
from graft.patch.format.writing import save_patch
from graft.tasks.task import Task
from tests.hub.client import Client
from tests.hub.local_hub import LocalHub
from tests.shared_builds import build_once

FIGURES = {"n": 80, "accuracy": 0.9, "ece": 0.04, "ece_floor": 0.03, "recovered_gain": 0.8}
METRICS = FIGURES | {
    "ci": {"accuracy": [0.85, 0.95], "ece": [0.0, 0.08]},
    "ood": {"meals": {"n": 40, "accuracy": 0.8, "ece": 0.1, "ci": {}}},
}


@pytest.fixture(scope="session")
def skill(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A patch of the 300 largest movements with a task and figures; tests do not write to it."""
    patch = diff_checkpoints(shelf / "base", shelf / "tuned", budget=300)
    task = Task.load(shelf / "toy" / "task.yaml").describe()
    provenance = dataclasses.replace(patch.provenance, task=task, metrics=METRICS)
    patch = dataclasses.replace(patch, provenance=provenance)
    return build_once(tmp_path_factory, "shelf/published.safetensors", lambda path: save_patch(patch, path))


@pytest.fixture(scope="session")
def one_hub() -> Iterator[LocalHub]:
    """The Hub of all modules: a process keeps the address that it has begun with, and costs seconds to begin."""
    hub = LocalHub()
    yield hub
    hub.close()


@pytest.fixture(scope="session")
def alices(one_hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with Client(one_hub.url, tmp_path_factory.mktemp("alice"), "hf_alice") as client:
        yield client


@pytest.fixture(scope="session")
def carols(one_hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with Client(one_hub.url, tmp_path_factory.mktemp("carol")) as client:
        yield client


@pytest.fixture(scope="module")
def running(one_hub: LocalHub, shelf: Path) -> LocalHub:
    """A Hub with a base of bob's, and nothing else."""
    one_hub.clear()
    one_hub.add_folder("bob/base", shelf / "base", owner="bob")
    card = b"---\nlicense: apache-2.0\n---\n# A base\n"
    one_hub.commit("bob/base", "main", "card", {"README.md": card})
    return one_hub


@pytest.fixture(scope="module")
def alice(running: LocalHub, alices: Client) -> Client:
    """A process that may write as alice."""
    return alices.afresh()


@pytest.fixture(scope="module")
def carol(running: LocalHub, carols: Client) -> Client:
    """A process of someone without a token."""
    return carols.afresh()


@pytest.fixture
def hub(running: LocalHub) -> LocalHub:
    """The Hub, in which all is well and nothing is logged yet."""
    running.order()
    return running
