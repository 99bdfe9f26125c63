"""Small bases and random movements, for round trips through other tools' formats."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from graft.patch.format.reading import load_patch
from graft.patch.format.writing import patch_bytes
from graft.patch.skill_patch import Patch
from tests.checkpoints import cut, save_model, small_bert, small_llama

DTYPES = (torch.float32, torch.bfloat16)
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def any_tensor(name: str) -> bool:
    return True


def is_linear(name: str) -> bool:
    return name.endswith(("_proj.weight", "dense.weight", "query.weight", "key.weight", "value.weight"))


def moved(
    model: Any, *, share: float = 0.1, size: float = 0.03, seed: int = 5, where: Callable[[str], bool] = any_tensor
) -> Any:
    """A copy in which about that share of the entries of some parameters moved by normal draws."""
    generator = torch.Generator().manual_seed(seed)
    tuned = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if where(name):
                chosen = torch.rand(parameter.shape, generator=generator) < share
                step = size * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)  # no float32
                parameter[chosen] = (parameter.double() + step).to(parameter.dtype)[chosen]
    return tuned


def llama_pair(folder: Path, dtype: torch.dtype, *, tied: bool = False, **how: Any) -> tuple[Path, Path]:
    base = small_llama(tied=tied, dtype=dtype)
    return save_model(base, folder / "base"), save_model(moved(base, **how), folder / "tuned")


def bert_pair(folder: Path, **how: Any) -> tuple[Path, Path]:
    base = small_bert()
    return save_model(base, folder / "base"), save_model(moved(base, **how), folder / "tuned")


def stored_patch(base: Path, tuned: Path, **how: Any) -> Patch:
    """The patch of every changed entry, once through its file."""
    path = base.parent / "patch.safetensors"
    path.write_bytes(patch_bytes(cut(base, tuned, **how)))
    return load_patch(path)
