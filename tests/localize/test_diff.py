from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from graft.errors import BudgetError, ConfigError
from graft.localize.diff import diff_checkpoints
from graft.patch.live import apply_patch
from graft.patch.merge import merge_patches
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.pair import CheckpointPair
from tests.checkpoints import bits_of, equal_tensors, write_single
from tests.models import copy_with


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_changed_entry_put_on_gives_the_tuned_checkpoint(
    dtype: torch.dtype, base: Path, tuned: Path, tmp_path: Path
) -> None:
    base = copy_with(base, tmp_path / "base", lambda *_: None, dtype)
    patch = diff_checkpoints(base, tuned)
    expected = {name: tensor.to(dtype) for name, tensor in load_file(tuned / "model.safetensors").items()}
    merge_patches(Checkpoint.open(base), [patch], tmp_path / "merged")
    assert equal_tensors(load_file(tmp_path / "merged" / "model.safetensors"), expected)
    live, goal = (AutoModel.from_pretrained(folder, dtype=dtype) for folder in (base, tuned))
    before = bits_of(live)
    assert before != bits_of(goal)
    with apply_patch(live, patch):
        assert bits_of(live) == bits_of(goal)
    assert bits_of(live) == before


def test_with_a_budget_the_largest_movements_are_kept(base: Path, tuned: Path) -> None:
    patch = diff_checkpoints(base, tuned, budget=300)
    pair = CheckpointPair.open(base, tuned)
    kept = torch.cat([pair.read_delta(name)[0].abs()[patch.mask[name].copy()] for name in patch.mask])
    whole = torch.cat([pair.read_delta(name)[0].abs() for name in pair.names])
    assert len(patch) == 300
    assert kept.min() == whole.topk(300).values.min()
    n = patch.provenance.base.n_parameters
    assert diff_checkpoints(base, tuned, density=300 / n).mask == patch.mask


def test_buffers_belong_to_the_difference_and_not_to_a_budget(tmp_path: Path) -> None:
    before = {"layers.0.w": torch.zeros(4), "layers.0.running_mean": torch.zeros(4)}
    after = {"layers.0.w": torch.ones(4), "layers.0.running_mean": torch.full((4,), 9.0)}
    base, tuned = write_single(tmp_path / "base", before), write_single(tmp_path / "tuned", after)
    assert len(diff_checkpoints(base, tuned)) == 8
    assert list(diff_checkpoints(base, tuned, budget=4).mask) == ["layers.0.w"]


def test_a_change_of_sign_of_zero_is_a_change(tmp_path: Path) -> None:
    base = write_single(tmp_path / "base", {"layers.0.w": torch.zeros(4)})
    tuned = write_single(tmp_path / "tuned", {"layers.0.w": torch.tensor([0.0, -0.0, 0.0, 0.0])})
    assert diff_checkpoints(base, tuned).mask["layers.0.w"].tolist() == [1]


def test_the_scope_limits_the_difference(base: Path, tuned: Path) -> None:
    everything = diff_checkpoints(base, tuned)
    layers = diff_checkpoints(base, tuned, scope="layers")
    assert 0 < len(layers) < len(everything)
    assert layers.mask - everything.mask == everything.mask - everything.mask
    assert all("layer." in name for name in layers.mask)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda a, b: diff_checkpoints(a, a), BudgetError, r"checkpoints are equal"),
        (lambda a, b: diff_checkpoints(a, a, budget=1), BudgetError, r"checkpoints are equal"),
        (lambda a, b: diff_checkpoints(a, b, density=0.0), BudgetError, r"density 0 is not above 0"),
        (lambda a, b: diff_checkpoints(a, b, budget=0), BudgetError, r"budget 0 keeps no entry"),
        (lambda a, b: diff_checkpoints(a, b, scope="("), ConfigError, r"scope '\(': not a regular expression"),
        (lambda a, b: diff_checkpoints(a, b, scope="nowhere"), ConfigError, r"scope 'nowhere' holds no tensor"),
    ],
)
def test_nothing_to_cut_out_is_refused(
    call: Callable[[Path, Path], object], error: type[Exception], said: str, base: Path, tuned: Path
) -> None:
    assert len(diff_checkpoints(base, tuned))
    with pytest.raises(error, match=said):
        call(base, tuned)
