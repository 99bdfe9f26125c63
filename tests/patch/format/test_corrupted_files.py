"""A patch file from a stranger is bad input until checked: one line, quickly, and nothing allocated."""

from __future__ import annotations

import io
import pickle
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graft.errors import PatchFormatError
from graft.files.tensor_spec import TensorSpec
from graft.patch.format.reading import load_mask, load_patch
from graft.patch.format.writing import patch_bytes
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from tests.checkpoints import equal_patches, join_file, sample_patch, split_file
from tests.patch.format.corruptions import CORRUPTIONS, GOOD, PATCH, with_payload


def refused(data: bytes, folder: Path, load: Callable[[Path], object] = load_patch) -> str:
    """Return the message with which a file is refused, in one line and without a big allocation."""
    (folder / "p").write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(PatchFormatError) as caught:
            load(folder / "p")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < len(str(folder)) + 400
    assert peak < 8 * len(data) + 2**21
    return message


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corrupted_file_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(GOOD)
    assert equal_patches(load_patch(tmp_path / "good"), PATCH)
    data, fact = CORRUPTIONS[name]
    message = refused(data, tmp_path)
    assert "p: " in message
    assert re.search(fact, message), message


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no such", tmp_path / ("x" * 300)):
        with pytest.raises(PatchFormatError, match=r"patch|no such|x"):
            load_patch(path)


def test_every_cut_is_refused(tmp_path: Path) -> None:
    for length in range(0, len(GOOD), 7):
        refused(GOOD[:length], tmp_path)
    refused(GOOD[:-1], tmp_path)


def test_a_mask_file_cannot_ask_for_more_than_it_holds(tmp_path: Path) -> None:
    header, meta, payload = split_file(patch_bytes(Mask.full({"a": TensorSpec("F32", (4,))})))
    (tmp_path / "good").write_bytes(join_file(header, meta, payload))
    assert len(load_mask(tmp_path / "good")) == 4
    for shape in ([2**60], [2**31, 2]):
        meta["tensors"][0][2:5] = [shape, "all", torch.Size(shape).numel()]
        assert "without data" in refused(join_file(header, meta, payload), tmp_path, load_mask)


class Trap:
    """An object that writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, ("trapped", "w")


def test_a_pickle_is_refused_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved = io.BytesIO()
    torch.save({"weight": torch.ones(2)}, saved)
    for data in (pickle.dumps(Trap()), pickle.dumps(Trap(), 0), saved.getvalue()):
        refused(data, tmp_path)
    assert not (tmp_path / "trapped").exists()


@settings(
    derandomize=True, deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=4),
    share=st.one_of(st.just(1.0), st.floats(0, 1)),
    small=st.booleans(),
)
def test_a_damaged_file_is_refused_or_loads_as_a_sound_patch(
    flips: list[tuple[float, int]], share: float, small: bool, tmp_path: Path
) -> None:
    original = GOOD if small else patch_bytes(sample_patch())
    data = bytearray(original[: round(share * len(original))])
    for position, flip in flips if data else ():
        data[int(position * len(data))] ^= flip
    patch = loaded(bytes(data), tmp_path)
    if bytes(data) == original:
        assert patch is not None
        assert equal_patches(patch, PATCH if small else sample_patch())


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 2**65), st.floats(allow_nan=False), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=2)),
    max_leaves=4,
)


@settings(
    derandomize=True, deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_other_json_is_refused_or_loads_as_a_sound_patch(data: st.DataObject, tmp_path: Path) -> None:
    header, meta, payload = split_file(GOOD)
    node: Any = data.draw(st.sampled_from([header, meta, meta["tensors"]]))
    while True:  # down to a random node
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[key], (dict, list)) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = data.draw(JSON)
    loaded(join_file(header, meta, payload), tmp_path)


def loaded(data: bytes, folder: Path) -> Patch | None:
    """Load the patch of a file, None where it is refused; what loads must survive saving and loading again."""
    (folder / "p").write_bytes(data)
    try:
        patch = load_patch(folder / "p")
    except PatchFormatError:
        return None
    (folder / "again").write_bytes(patch_bytes(patch))
    assert equal_patches(load_patch(folder / "again"), patch)
    return patch


@settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_values_never_load(data: st.DataObject, tmp_path: Path) -> None:
    header, _, payload = split_file(GOOD)
    tensor = data.draw(st.sampled_from(["values.F32", "values.BF16", "base.F32", "base.BF16"]))
    start, stop = header[tensor]["data_offsets"]
    offset = data.draw(st.integers(0, stop - start - 1))
    byte = payload[start + offset] ^ data.draw(st.integers(1, 255))
    refused(with_payload(tensor, offset, bytes([byte])), tmp_path)
