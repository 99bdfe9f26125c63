"""Of a model on the Hub only what is needed is fetched, and offline what is needed is enough."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from graft.errors import CheckpointError
from graft.files.location import is_on_hub
from graft.tensors.checkpoint import Checkpoint
from tests.checkpoints import files_below, write_sharded
from tests.hub.client import Client
from tests.hub.local_hub import LocalHub
from tests.hub.test_refusals import OFFLINE, refused

BESIDES = {
    "README.md": b"# A model\n",
    "consolidated.safetensors": b"stale",
    "model.fp16.safetensors": b"stale",
    "onnx/config.json": b"{}",
    "onnx/model.onnx": b"stale",
    "original/x.safetensors": b"stale",
    "pytorch_model.bin": b"stale",
}


@pytest.fixture
def dora(running: LocalHub, tmp_path: Path) -> Iterator[Client]:
    """A process with an empty cache."""
    with Client(running.url, tmp_path / "dora") as client:
        yield client


def fetched(client: Client, name: str) -> set[str]:
    """What lies in a client's cache of a repository's only commit."""
    (snapshot,) = client.folder.rglob(f"models--{name.replace('/', '--')}/snapshots/*")
    return set(files_below(snapshot))


@pytest.fixture
def tree(shelf: Path, tmp_path: Path) -> dict[str, bytes]:
    """The base in two shards, with a single file that is stale and a part in a folder."""
    base = Checkpoint.open(shelf / "base")
    folder = write_sharded(tmp_path / "sharded", {name: base.read(name).clone() for name in base.names}, n_shards=2)
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    files |= {name: (shelf / "base" / name).read_bytes() for name in ("config.json", "tokenizer.json")}
    modules = json.dumps([{"path": ""}, {"path": "2_Dense"}]).encode()
    more = {"modules.json": modules, "2_Dense/config.json": b"{}", "2_Dense/model.safetensors": b"part"}
    return files | more


def test_the_files_of_the_root_and_the_weights_that_the_index_names(
    hub: LocalHub, dora: Client, tree: dict[str, bytes], shelf: Path
) -> None:
    hub.add("bob/many", {**tree, **BESIDES, "model.safetensors": b"stale"})
    assert dora("diff", "bob/many", shelf / "tuned").code == 0
    assert fetched(dora, "bob/many") == set(tree)


@pytest.mark.parametrize("single", [True, False])
def test_offline_a_cached_model_is_enough_whatever_else_is_listed(
    single: bool, hub: LocalHub, dora: Client, tree: dict[str, bytes], shelf: Path
) -> None:
    if single:
        tree = {name: (shelf / "base" / name).read_bytes() for name in ("config.json", "model.safetensors")}
    hub.add("bob/cached", {**tree, **BESIDES, "extra.json": b"{}", "merges.txt": b"x"})
    assert dora("diff", "bob/cached", shelf / "tuned").code == 0
    for name in ("extra.json", "merges.txt"):  # as where transformers fetched what it wanted alone
        (found,) = dora.folder.rglob(f"snapshots/*/{name}")
        found.unlink()
    dora.run(OFFLINE.format(True))
    assert dora("diff", "bob/cached", shelf / "tuned").code == 0
    for name in ("model.safetensors",) if single else ("model-00002-of-00002.safetensors", "2_Dense"):
        (found,) = dora.folder.rglob(f"models--bob--cached/snapshots/*/{name}")
        found.rename(found.with_name("away"))
        refused(dora("diff", "bob/cached", shelf / "tuned"), "HF_HUB_OFFLINE is set and bob/cached is not in the cache")
        found.with_name("away").rename(found)
    assert dora("diff", "bob/cached", shelf / "tuned").code == 0


NO_IDS = ["a/b/c", "model.safetensors", "org/model.GGUF", "task.yaml", "data.jsonl", "a b", "a\\b", "x" * 97]
NO_IDS += ["x" * 5000, "org/", "-x", "a--b", "a..b", "me/it.git", "me/it@a b", "me/it@x@y", "me/it@..", "é/x"]
NO_IDS += ["a:b", "", "@v1", "a\0b"]


@pytest.mark.parametrize("text", NO_IDS)
def test_what_cannot_be_on_the_hub_is_not_asked_for(text: str) -> None:
    assert is_on_hub("org/Model-v0.1_x@refs/pr/1")  # the control
    with pytest.raises(CheckpointError, match=r"no such local path, and .* is not a Hub id: write NAME or ORG/NAME"):
        is_on_hub(text)


@pytest.mark.parametrize("command", ["diff", "inspect", "pull"])
def test_it_is_refused_without_a_request(command: str, hub: LocalHub, carol: Client, shelf: Path) -> None:
    more = {"diff": [shelf / "tuned"], "inspect": [], "pull": ["-o", "out"]}[command]
    refused(carol(command, "gone/model.safetensors", *more), "'gone/model.safetensors' is not a Hub id")
    assert hub.log == []
    carol(command, "gone/model", *more)
    assert hub.log  # the control
