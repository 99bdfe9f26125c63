"""Format 2: whole rows and columns named once each; nothing else becomes it, and no bad file of it is read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.errors import PatchFormatError
from graft.files.tensor_spec import TensorSpec
from graft.patch.format.lines import LINE_CODES, decode_lines, encode_entries, expand_lines, measure_lines
from graft.patch.format.reading import load_mask, load_patch, load_region
from graft.patch.format.writing import patch_bytes, save_patch
from graft.patch.mask import Mask
from graft.patch.provenance import Provenance
from graft.patch.skill_patch import Patch
from tests.checkpoints import equal_patches, join_file, make_patch, split_file

OF_LINES = Provenance(method={"method": "attribution", "structure": "columns"})
BASE = {"a": torch.zeros(8, 30), "b": torch.zeros(30, 8), "c": torch.zeros(40), "d": torch.zeros(8, 30)}


def lined(code: str, name: str, *lines: int) -> dict[str, dict[int, float]]:
    indices = expand_lines(code, np.array(lines), tuple(BASE[name].shape))
    return {name: {int(index): float(index) + 1 for index in indices}}


def sample() -> Patch:
    entries = lined("columns", "a", 3, 29) | lined("rows", "b", 0, 7, 8) | {"c": {5: 1.0}, "d": {5: 1.0, 77: 2.0}}
    return dataclasses.replace(make_patch(BASE, entries, with_base_values=True), provenance=OF_LINES)


def of_mask(mask: Mask, origin: Provenance = OF_LINES) -> dict[str, Any]:
    return split_file(patch_bytes(mask, origin))[1]


def test_whole_lines_are_named_once_and_read_again(tmp_path: Path) -> None:
    patch = sample()
    save_patch(patch, tmp_path / "p")
    _, meta, _ = split_file((tmp_path / "p").read_bytes())
    assert meta["format"] == 2
    rows = {row[0]: (row[3], row[4], row[5]) for row in meta["tensors"]}
    assert rows == {"a": ("columns", 16, 2), "b": ("rows", 24, 3), "c": ("gaps", 1, 1), "d": ("gaps", 2, 2)}
    assert equal_patches(load_patch(tmp_path / "p"), patch)
    assert patch_bytes(load_patch(tmp_path / "p")) == (tmp_path / "p").read_bytes()


def test_only_a_patch_that_was_made_of_lines_is_of_format_2() -> None:
    assert of_mask(sample().mask)["format"] == 2
    for origin in (Provenance(), Provenance(method={"structure": "entries"}), Provenance(method={"structure": []})):
        meta = of_mask(sample().mask, origin)
        assert (meta["format"], {row[3] for row in meta["tensors"]} & set(LINE_CODES)) == (1, set())
    free = Mask.of({"a": TensorSpec("F32", (8, 30))}, {"a": [1, 2, 70]})
    assert patch_bytes(free, OF_LINES).replace(b"columns", b"entries") == patch_bytes(
        free, Provenance(method={"method": "attribution", "structure": "entries"})
    )


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_lines_survive_their_code_whatever_the_shape(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    code = data.draw(st.sampled_from(LINE_CODES))
    n_lines, length = measure_lines(code, shape)
    lines = np.array(sorted(data.draw(st.sets(st.integers(0, n_lines - 1), min_size=1))), np.int64)
    indices, spec = expand_lines(code, lines, shape), TensorSpec("F32", shape)
    assert np.array_equal(indices, np.unique(indices))
    coded = encode_entries(indices, spec, by_line=True)
    plain = encode_entries(indices, spec, by_line=False)
    assert coded.gaps.nbytes + coded.bits.nbytes <= plain.gaps.nbytes + plain.bits.nbytes
    if coded.code in LINE_CODES:
        assert np.array_equal(decode_lines(coded.code, coded.gaps, indices.size, shape), indices)
        assert coded.gaps.nbytes < plain.gaps.nbytes + plain.bits.nbytes
    mask = Mask.of({"w": spec}, {"w": indices})
    meta = of_mask(mask)
    assert meta["format"] == (2 if coded.code in LINE_CODES else 1)
    assert meta["tensors"][0][4] == lines.size * length


@settings(deadline=None, max_examples=100)
@given(st.sets(st.integers(0, 59), min_size=1, max_size=59))
def test_what_is_not_whole_lines_is_never_called_so(chosen: set[int]) -> None:
    indices = np.array(sorted(chosen))
    coded = encode_entries(indices, TensorSpec("F32", (6, 10)), by_line=True)
    grid = np.zeros(60, bool)
    grid[indices] = True
    grid = grid.reshape(6, 10)
    if coded.code == "columns":
        assert (grid.all(0) | ~grid.any(0)).all()
    elif coded.code == "rows":
        assert (grid.all(1) | ~grid.any(1)).all()


def test_lines_that_lie_far_apart() -> None:
    spec, lines = TensorSpec("BF16", (200_000, 2)), np.array([0, 70_000, 199_999])
    indices = expand_lines("rows", lines, spec.shape)
    coded = encode_entries(indices, spec, by_line=True)
    assert (coded.code, coded.gaps.size) == ("rows", 5)
    assert np.array_equal(decode_lines("rows", coded.gaps, 6, spec.shape), indices)


def bad(change: Callable[[dict[str, Any]], object], tokens: list[int] | None = None) -> bytes:
    """The sample with its JSON changed, and its gaps, without the hashes that would notice first."""
    header, meta, payload = split_file(patch_bytes(sample()))
    del meta["content"], meta["table"]
    change(meta)
    if tokens is not None:
        start, stop = header["gaps"]["data_offsets"]
        payload = payload[:start] + np.array(tokens, "<u2").tobytes() + payload[stop:]
        assert len(tokens) * 2 == stop - start
    return join_file(header, meta, payload)


def row(number: int, column: int, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda meta: meta["tensors"][number].__setitem__(column, value)


GOOD = [3, 25, 0, 6, 0, 5, 5, 71]  # a: columns 3, 29 · b: rows 0, 7, 8 · c: 5 · d: 5, 77
BAD = {
    "no lines in format 2": (
        bad(lambda meta: meta.update(tensors=[[*row[:3], "gaps", row[5], *row[5:]] for row in meta["tensors"]])),
        "of format 2, and none",
    ),
    "format 3": (bad(lambda meta: meta.update(format=3)), "format 3 is not known here; this reads formats 1 and 2"),
    "lines in format 1": (bad(lambda meta: meta.update(format=1)), "code 'columns', which format 1 lacks"),
    "true": (bad(lambda meta: meta.update(format=True)), "format True|format true"),
    "not whole": (bad(row(0, 4, 15)), "no whole columns"),
    "no lines": (bad(row(0, 4, 7)), "no whole columns"),
    "more lines than there are": (bad(row(0, 4, 248)), "which its shape"),
    "all lines": (bad(row(0, 4, 240)), "code 'columns' for 240 of 240"),
    "too few tokens": (bad(row(0, 5, 1)), "1 tokens for 16 entries"),
    "a vector": (bad(row(2, 3, "rows")), "no whole rows"),
    "three axes": (bad(row(0, 2, [8, 5, 6])), "no whole columns"),
    "the other axis": (bad(row(0, 3, "rows")), "no whole rows"),
    "out of range": (bad(lambda meta: None, [3, 26, *GOOD[2:]]), "columns: index 30 lies outside its 30"),
    "far out of range": (bad(lambda meta: None, [65535, 25, *GOOD[2:]]), "columns: its gaps hold 1 indices, not 2"),
    "values of other lines": (bad(lambda meta: meta["tensors"][0].__setitem__(4, 24), None), "tokens|must be"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_of_lines_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(bad(lambda meta: None, GOOD))
    assert equal_patches(load_patch(tmp_path / "good"), sample())
    data, fact = BAD[name]
    (tmp_path / "p").write_bytes(data)
    with pytest.raises(PatchFormatError, match=fact) as caught:
        load_patch(tmp_path / "p")
    assert "\n" not in str(caught.value)


def test_a_small_mask_of_lines_cannot_ask_for_more_than_memory(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(patch_bytes(sample().mask, OF_LINES))
    assert load_mask(tmp_path / "good") == sample().mask
    header, meta, payload = split_file((tmp_path / "good").read_bytes())
    assert len(payload) < 50
    del meta["content"], meta["table"]
    meta["tensors"][0][2:6] = [2**40, 2], "columns", 2**40, 1
    (tmp_path / "p").write_bytes(join_file(header, meta, payload))
    with pytest.raises(PatchFormatError, match="entries without data"):
        load_mask(tmp_path / "p")


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(0, 255))
def test_a_flipped_byte_is_refused_whole(tmp_path_factory: pytest.TempPathFactory, position: int, value: int) -> None:
    data, folder = bytearray(patch_bytes(sample())), tmp_path_factory.mktemp("flipped")
    position %= len(data)
    before, data[position] = data[position], value
    (folder / "p").write_bytes(data)
    if before == value:
        assert equal_patches(load_patch(folder / "p"), sample())
        return
    try:
        region, _ = load_region(folder / "p")
    except PatchFormatError:
        return
    assert isinstance(region, Patch)  # a letter of the JSON that no value depends on
    assert equal_patches(dataclasses.replace(region, provenance=OF_LINES), sample())


def test_the_table_of_a_file_of_lines_is_canonical() -> None:
    _, meta, _ = split_file(patch_bytes(sample()))
    assert json.dumps(meta["tensors"]).count("gaps") == 2
