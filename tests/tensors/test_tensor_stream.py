"""A file written tensor by tensor is the file that the safetensors library writes."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from graft.files.header import read_header
from graft.files.tensor_spec import TensorSpec
from graft.tensors.dtypes import TORCH_DTYPES
from graft.tensors.tensor_stream import Planned, plan_tensor, write_tensors
from tests.checkpoints import equal_tensors


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    by_dtype = {f"t.{name}": (100 * torch.rand(3, 5, generator=generator)).to(d) for name, d in TORCH_DTYPES.items()}
    return {**by_dtype, "scalar": torch.tensor(-0.0), "empty": torch.zeros(0, 3), "ß": torch.ones(7, dtype=torch.uint8)}


def test_the_bytes_are_the_librarys(tmp_path: Path) -> None:
    write_tensors(tmp_path / "f", {name: plan_tensor(t) for name, t in tensors().items()}, {"format": "pt"})
    assert equal_tensors(load_file(tmp_path / "f"), tensors())
    assert read_header(tmp_path / "f").metadata == {"format": "pt"}
    plain = {name: tensor for name, tensor in tensors().items() if tensor.dtype in (torch.float32, torch.uint8)}
    write_tensors(tmp_path / "f", {name: plan_tensor(t) for name, t in plain.items()}, {"format": "pt"})
    assert (tmp_path / "f").read_bytes() == save(plain, metadata={"format": "pt"})


def test_memory_holds_two_tensors_at_most(tmp_path: Path) -> None:
    references: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def make() -> torch.Tensor:
        alive.append(sum(reference() is not None for reference in references))
        tensor = torch.full((4,), float(len(references)))
        references.append(weakref.ref(tensor))
        return tensor

    write_tensors(tmp_path / "f", {str(i): Planned(TensorSpec("F32", (4,)), make) for i in range(5)}, {})
    assert [tensor[0].item() for tensor in load_file(tmp_path / "f").values()] == [0, 1, 2, 3, 4]
    assert max(alive) == 1  # the one before, until its name is taken by the next


def test_another_tensor_than_planned_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'a': F32\[2\], but F32\[3\] was planned"):
        write_tensors(tmp_path / "f", {"a": Planned(TensorSpec("F32", (3,)), lambda: torch.zeros(2))}, {})
