"""Sparse fine-tunings from pickles: read by an allow-list, their indices turned, nothing in them run."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import CheckpointError, MismatchError
from graft.interop.composable_sft import decode_steps, read_composable_sft
from graft.interop.importing import import_patch
from graft.patch.live import apply_patch
from tests.checkpoints import bits_of, save_model, small_bert, small_llama
from tests.interop.bases import DTYPES
from tests.interop.sft_files import LAYOUTS, encode, encoded, write_sft


def differences(model: torch.nn.Module, share: float = 0.2) -> dict[str, torch.Tensor]:
    """Normal draws at random entries of every matrix and vector."""
    generator = torch.Generator().manual_seed(11)
    made = {}
    for name, parameter in model.named_parameters():
        chosen = torch.rand(parameter.shape, generator=generator) < share
        made[name] = 0.03 * torch.randn(parameter.shape, generator=generator) * chosen
    return made


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_is_what_the_tool_itself_adds(layout: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = small_llama(tied=True, dtype=dtype)
    base = save_model(model, tmp_path / "base")
    steps = differences(model)
    patch = import_patch(write_sft(tmp_path / "sft", LAYOUTS[layout](steps, {})), "composable-sft", str(base))
    with apply_patch(model, patch):
        grafted = bits_of(model)
    before = bits_of(model)
    with torch.no_grad():
        for name, step in steps.items():
            parameter = model.get_parameter(name)
            parameter += step.to_sparse()  # its `SFT.apply`
    assert bits_of(model) == grafted
    assert grafted != before


def test_names_of_the_live_model_and_whole_tensors(tmp_path: Path) -> None:
    model = small_bert()
    base = save_model(model, tmp_path / "base")
    steps = {f"bert.{name}": step for name, step in differences(model).items() if step.any()}
    bias = torch.randn(8, generator=torch.Generator().manual_seed(1))
    whole = {"classifier.weight": torch.ones(3, 8), "bert.pooler.dense.bias": bias}
    del steps["bert.pooler.dense.bias"]
    patch = import_patch(write_sft(tmp_path / "sft", encoded(steps, whole)), "composable-sft", str(base))
    assert set(patch.mask) == {name.removeprefix("bert.") for name in steps} | {"pooler.dense.bias"}
    assert torch.equal(patch.values["pooler.dense.bias"], bias)
    assert set(patch.dense) == {"classifier.weight"}


@settings(derandomize=True, deadline=None, max_examples=60)
@given(shape=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=st.integers(0, 2**16))
def test_any_shape_is_turned_to_rows_first(shape: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < 0.5)
    found, flat, values = decode_steps("x", encode(dense))
    again = torch.zeros(dense.numel()).index_copy_(0, flat, values)
    assert found == tuple(shape)
    assert torch.equal(again.reshape(shape), dense)


def test_indices_beyond_32_bits() -> None:
    rows, columns = 70_000, 80_000
    steps = [2**31 + 5, 1, 3 * 10**9]
    _, flat, _ = decode_steps("x", {"size": (rows, columns), "index_steps": steps, "values": torch.ones(3)})
    column_major = np.cumsum(steps)
    assert flat.tolist() == [(i % rows) * columns + i // rows for i in column_major.tolist()]
    wrapped = np.cumsum(np.array(steps).astype(np.int32), dtype=np.int32)  # what the tool's own decoder adds up
    assert (wrapped != column_major).any()


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"index_steps": [0, 1, -1]}, "leave its shape"),
        ({"index_steps": [-1, 1, 1]}, "leave its shape"),
        ({"index_steps": [0, 0, 1]}, "leave its shape"),
        ({"index_steps": [0, 1, 30]}, "leave its shape"),
        ({"index_steps": [2**62, 2**62, 2**62]}, "leave its shape"),
        ({"index_steps": [0.0, 1.0, 1.0]}, "leave its shape"),
        ({"index_steps": [0, 1]}, "as many steps as values"),
        ({"index_steps": [2**70, 1, 1]}, "leave its shape|not an encoding"),
        ({"index_steps": "abc"}, "as many steps as values"),
        ({"index_steps": [[0], [1, 2], 3]}, "not an encoding"),
        ({"size": (2**40, 2**40)}, "leave its shape"),
        ({"size": (-3, -4)}, "leave its shape|lies outside"),
        ({"size": "ab"}, "not an encoding"),
        ({"values": [1.0, 2.0, 3.0]}, "as many steps as values"),
        ({"values": torch.ones(3, 1)}, "as many steps as values"),
    ],
)
def test_an_encoding_that_contradicts_itself_is_refused(change: dict[str, Any], fact: str) -> None:
    good = {"size": (3, 4), "index_steps": [0, 1, 10], "values": torch.ones(3)}
    assert decode_steps("x", good)[1].tolist() == [0, 4, 11]
    with pytest.raises(CheckpointError, match=fact):
        decode_steps("x", good | change)


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_a_pickle_cannot_run_anything(tmp_path: Path) -> None:
    base = save_model(small_llama(tied=True), tmp_path / "base")
    write_sft(tmp_path / "sft", {"diffs": {}, "abs": {}, "trap": Trap(tmp_path / "caught")})
    with pytest.raises(CheckpointError, match="wants more than tensors, names and numbers; nothing was run"):
        import_patch(tmp_path / "sft", "composable-sft", str(base))
    assert not (tmp_path / "caught").exists()
    with zipfile.ZipFile(tmp_path / "sft" / "pytorch_diff.bin") as archive:
        pickle.loads(archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl"))))
    assert (tmp_path / "caught").exists()  # the trap is a real one


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    model = small_llama(tied=True)
    base = save_model(model, tmp_path / "base")
    name, step = next((n, s) for n, s in differences(model).items() if s.ndim == 2)
    file = tmp_path / "pytorch_diff.bin"

    def refusal(content: Any, kind: type[Exception] = CheckpointError) -> str:
        torch.save(content, file)
        with pytest.raises(kind) as caught:
            import_patch(file, "composable-sft", str(base))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    torch.save(encoded({name: step}, {}), file)
    assert len(import_patch(file, "composable-sft", str(base))) == int((step != 0).sum())
    assert "holds neither 'diffs' nor 'body'" in refusal({"zebra": 1})
    assert "holds no dictionary" in refusal([1])
    assert "neither a sparse tensor nor" in refusal({"diffs": {name: step}})
    assert "no text" in refusal({"diffs": {3: encode(step)}})
    assert "no tensor of its own" in refusal({"abs": {name: torch.zeros(1).expand(2**40)}})
    assert "lacks tensor 'zebra'" in refusal(encoded({"zebra": step}, {}), MismatchError)
    assert "has shape" in refusal(encoded({name: step.T.contiguous()}, {}), MismatchError)
    bad = torch.sparse_coo_tensor([[1, 99], [0, 0]], [1.0, 2.0], tuple(step.shape), check_invariants=False)
    assert "lies outside its shape" in refusal({"body": {name: bad}})
    twice = torch.sparse_coo_tensor([[1, 1], [0, 0]], [1.0, 2.0], tuple(step.shape), check_invariants=False)
    assert "occurs twice" in refusal({"body": {name: twice}})
    torch.save(encoded({name: step}, {}), file, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="not an archive"):
        import_patch(file, "composable-sft", str(base))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1000))
    with pytest.raises(CheckpointError, match="a compressed archive"):
        import_patch(file, "composable-sft", str(base))
    with pytest.raises(CheckpointError, match="cannot be read"):
        import_patch(tmp_path / "none", "composable-sft", str(base))


@settings(derandomize=True, deadline=None, max_examples=150)
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=3))
def test_a_damaged_archive_is_read_or_refused(flips: list[tuple[float, int]], tmp_path_factory: Any) -> None:
    step = torch.tensor([[0.0, 2.0], [0.5, 0.0]])
    folder = tmp_path_factory.mktemp("sft")
    file = write_sft(folder, encoded({"w": step}, {"b": torch.ones(3)})) / "pytorch_diff.bin"
    data = bytearray(file.read_bytes())
    for place, flip in flips:
        data[int(place * len(data))] ^= flip
    file.write_bytes(data)
    try:
        weights = read_composable_sft(file)
    except CheckpointError:
        return
    assert weights.edits or weights.whole
