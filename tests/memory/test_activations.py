"""What a forward pass keeps, foretold without weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from graft.memory.activations import estimate_activations
from graft.specs.runtime import Runtime
from graft.tasks.head import open_head
from graft.tasks.task import Task
from tests.models import VERBALIZER, write_causal, write_task


def kept_by(base: Path, task: Task, rows: int, gradient_checkpointing: bool = False) -> int:
    """Bytes of distinct storages, weights aside, that a real forward pass of the longest inputs keeps."""
    model = open_head(
        base, task.spec, runtime=Runtime(gradient_checkpointing=gradient_checkpointing)
    ).model.requires_grad_(True)
    weights = {weight.untyped_storage().data_ptr() for weight in (*model.parameters(), *model.buffers())}
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return tensor

    length = min(task.spec.max_length, model.config.max_position_embeddings)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=torch.full((rows, length), 5))
    return sum(storage.nbytes() for storage in storages.values())


def test_it_is_about_what_a_real_model_keeps(base: Path, task: Task) -> None:
    found = estimate_activations(base, task.spec, 6, torch.float32, lambda name: True)
    assert found is not None
    real = kept_by(base, task, 8)  # with two label texts
    assert real > 100_000
    assert real <= found.total <= 1.5 * real
    assert found.with_checkpointing < 0.8 * found.total


def test_it_grows_with_the_batch_and_shrinks_with_the_dtype_and_the_scope(base: Path, task: Task) -> None:
    def total(size: int, dtype: torch.dtype = torch.float32, scope: str = "") -> int:
        found = estimate_activations(base, task.spec, size, dtype, lambda name: scope in name)
        assert found is not None
        return found.total

    assert total(14) == pytest.approx(2 * total(6), rel=0.01)
    assert total(6, torch.bfloat16) < 0.7 * total(6)
    assert total(6, scope="layer.1.") < 0.7 * total(6)


def test_a_decoder_keeps_the_logits_that_its_head_reads(tmp_path: Path) -> None:
    causal = write_causal(tmp_path / "causal", steps=0)
    one = Task.load(write_task(tmp_path / "verbalizer", head=VERBALIZER))
    every = Task.load(write_task(tmp_path / "lm", head={"kind": "lm"}, labels=[], ood={}))
    totals = [estimate_activations(causal, task.spec, 4, torch.float32, lambda name: True) for task in (one, every)]
    assert totals[0] is not None
    assert totals[1] is not None
    assert totals[1].total - totals[0].total >= 4 * 4 * 63 * 28  # 4 texts of 64 tokens, all read but one, in fp32


def test_what_cannot_be_built_is_not_known(task: Task, tmp_path: Path) -> None:
    assert estimate_activations(tmp_path, task.spec, 4, torch.float32, lambda name: True) is None


def test_a_pass_without_a_backward_one_keeps_one_layer(base: Path, tmp_path: Path) -> None:
    """Twice the layers keep twice as much for a backward pass, and no more without."""
    task = Task.load(write_task(tmp_path / "task"))
    config = json.loads((base / "config.json").read_text())
    found = []
    for layers in (2, 4):
        folder = tmp_path / f"{layers}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": layers}))
        saved = estimate_activations(folder, task.spec, 6, torch.float32, lambda name: True)
        assert saved is not None
        found.append((saved.total, saved.without_backward))
    assert found[1][0] > 1.8 * found[0][0]
    assert found[1][1] == found[0][1] < found[0][0]
