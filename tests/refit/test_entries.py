from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from graft.patch.mask import Mask
from graft.refit.entries import Entries
from graft.refit.support import match_weights
from graft.tasks.head import open_head
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from tests.checkpoints import bits_of
from tests.models import write_bert

BIAS = "encoder.layer.0.attention.output.dense.bias"
WEIGHT = "encoder.layer.1.output.dense.weight"
INDICES = {BIAS: [1, 5], WEIGHT: [0, 33, 2047]}


def mask_in(checkpoint: Checkpoint) -> Mask:
    return Mask.of({name: checkpoint.spec(name) for name in INDICES}, INDICES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_are_kept_in_fp32_and_no_other_weight_is_written(dtype: torch.dtype, tmp_path: Path, task: Task) -> None:
    folder = write_bert(tmp_path / "bert", dtype=dtype)
    model, checkpoint = open_head(folder, task.spec).model, Checkpoint.open(folder)
    before = bits_of(model)
    entries = Entries(match_weights(model, sorted(checkpoint.parameters)), mask_in(checkpoint), checkpoint)
    assert torch.equal(entries.values.detach(), entries.base)
    assert entries.base.dtype == torch.float32
    entries.write(entries.base)
    assert bits_of(model) == before  # what was not moved is the base's to the bit
    tiny = entries.base + 2.0**-14  # below half a step of bf16
    for _ in range(200):
        tiny = tiny + 2.0**-14
        entries.write(tiny)
    written = dict(model.named_parameters())
    for name, positions in INDICES.items():
        live = written[name].detach().flatten()
        assert torch.equal(live[positions], tiny[entries.slices[name]].to(dtype))  # rounded once, not 200 times
        others = torch.ones(live.numel(), dtype=torch.bool)
        others[positions] = False
        assert torch.equal(live[others], checkpoint.read(name).flatten()[others])
    assert {name for name, bits in bits_of(model).items() if bits != before[name]} == set(INDICES)
    rounded = entries.rounded(tiny)
    assert all(rounded[name].dtype == dtype for name in INDICES)
    entries.return_to_base()
    assert bits_of(model) == before


def test_entries_take_over_values_where_both_have_one(base: Path, entries_of: Callable[[Mask], Entries]) -> None:
    mask = mask_in(Checkpoint.open(base))
    first = entries_of(mask)
    first.values.data.copy_(torch.arange(5) + 0.123456789)
    second = entries_of(Mask.of(mask.specs, {BIAS: [5, 7], WEIGHT: [33]})).adopt(first)
    assert second.values[[0, 2]].tolist() == first.values[[1, 3]].tolist()
    assert second.values[1] == second.base[1]
