"""An adapter of the peft library, trained in our loop and merged, is a checkpoint like any other."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch

from graft.errors import ConfigError, OutputError
from graft.specs.adapter import AdapterSpec
from graft.specs.train import TrainSpec
from graft.tasks.head import open_head
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.train.adapter import attach, train_adapter
from graft.train.fine_tuning import train_task

PLAIN = TrainSpec(optimizer="adamw", lr=1e-2, epochs=2, batch_size=16)


@pytest.mark.parametrize("kind", ["lora", "shira", "osf"])
def test_what_was_merged_is_what_was_trained(kind: str, base: Path, task: Task, tmp_path: Path) -> None:
    adapter = AdapterSpec(kind, rank=2)  # type: ignore[arg-type]
    made = train_adapter(base, task, tmp_path / "out", adapter, config=PLAIN)
    before, after = (Checkpoint.open(folder) for folder in (base, made.path))
    assert set(before.names) == set(after.names)  # no layer of the adapter's is left
    deltas = {name: after.read(name) - before.read(name) for name in before.parameters}
    changed = {name: delta for name, delta in deltas.items() if delta.any()}
    assert changed
    assert all(name.endswith("weight") and delta.ndim == 2 for name, delta in changed.items())
    if kind == "lora":
        assert all(int(torch.linalg.matrix_rank(delta, atol=1e-5)) <= 2 for delta in changed.values())
    elif kind == "shira":
        assert all(int(delta.count_nonzero()) <= 2 * sum(delta.shape) for delta in changed.values())
    head = open_head(made.path, task.spec)
    assert head.accuracy(task.validation_examples()) == made.epochs[-1].validation_accuracy
    again = train_adapter(base, task, tmp_path / "again", adapter, config=PLAIN)
    assert all(torch.equal(after.read(name), Checkpoint.open(again.path).read(name)) for name in after.names)
    record = json.loads((made.path / "graft_training.json").read_text())
    assert record["adapter"]["rank"] == 2
    assert record["steps"] == made.steps


@pytest.mark.parametrize(("optimizer", "lr", "share"), [("sgd", 0.5, 0.01), ("adamw", 1e-2, 0.5)])
def test_osf_keeps_what_the_largest_singular_values_do(
    optimizer: str, lr: float, share: float, base: Path, task: Task, tmp_path: Path
) -> None:
    config = dataclasses.replace(PLAIN, optimizer=optimizer, lr=lr, l1=0.0)
    made = train_adapter(base, task, tmp_path / "out", AdapterSpec("osf", preserved=0.75), config=config)
    plain = train_task(base, task, tmp_path / "plain", config=config)
    name = "encoder.layer.1.attention.output.dense.weight"  # square, of 32 singular values
    before, after, moved = (Checkpoint.open(folder).read(name) for folder in (base, made.path, plain.path))
    left, sizes, right = torch.linalg.svd(before)

    def changed(weight: torch.Tensor) -> float:
        """Largest change of weight @ v over the directions v that are to be kept."""
        return float((weight @ right[:24].T - left[:, :24] * sizes[:24]).norm(dim=0).max())

    assert changed(moved) > 1e-3  # the control
    assert float((after - before).norm()) > 1e-3
    assert changed(after) < share * changed(moved)


def test_only_the_adapter_takes_gradients(base: Path, task: Task) -> None:
    head = open_head(base, task.spec)
    attach(head.model, AdapterSpec("lora", rank=1, targets=r".*query"), seed=0)
    trained = [name for name, weight in head.model.named_parameters() if weight.requires_grad]
    assert len(trained) == 4  # two matrices in each of two layers
    assert all("lora_" in name and "query" in name for name in trained)


def test_what_an_adapter_cannot_do_is_said(
    base: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="an adapter trains plainly"):
        train_adapter(base, task, tmp_path / "out", AdapterSpec(), config=dataclasses.replace(PLAIN, l1=1e-3))
    with pytest.raises(ConfigError, match="peft: Target modules"):
        train_adapter(base, task, tmp_path / "out", AdapterSpec(targets="nothing"), config=PLAIN)
    with pytest.raises(OutputError, match="exists already"):
        train_adapter(base, task, tmp_path, AdapterSpec(), config=PLAIN)
    with pytest.raises(ValueError, match="rank must be 1 or more"):
        AdapterSpec(rank=0)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install peft"):
        train_adapter(base, task, tmp_path / "out", AdapterSpec(), config=PLAIN)
