"""Rows read one by one from a file are those of the whole load, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from graft.patch.format.layout import locate_rows
from graft.patch.format.reading import PatchFile, load_patch
from graft.patch.format.tensor_table import TensorRow
from graft.patch.format.writing import save_patch
from graft.tensors.dtypes import same_bits
from tests.patch.format.corruptions import PATCH


def test_rows_are_the_same_from_disk_and_from_memory(tmp_path: Path) -> None:
    save_patch(PATCH, tmp_path / "p")
    loaded = load_patch(tmp_path / "p")
    for file in (PatchFile.open(tmp_path / "p"), PatchFile.load(tmp_path / "p")):
        assert list(file.rows) == list(loaded.mask)
        assert {row.code for row in file.rows.values()} == {"all", "bits", "gaps"}  # each way of coding is met
        for name in file.rows:
            entries = file.read(name)
            assert np.array_equal(entries.indices, PATCH.mask[name])
            assert entries.values is not None
            assert same_bits(entries.values, PATCH.values[name])
            assert (entries.base is not None) == file.has_base == (PATCH.base_values is not None)
        assert set(file.dense) == set(PATCH.dense)
        assert all(same_bits(file.read_dense(name), PATCH.dense[name]) for name in file.dense)


def test_offsets_of_the_example_in_the_layout() -> None:
    rows = [
        TensorRow("a", "F32", (100,), "gaps", 3, 3, None, None),
        TensorRow("b", "F32", (4,), "all", 4, 0, None, None),
        TensorRow("c", "BF16", (100,), "gaps", 2, 2, None, None),
        TensorRow("d", "F32", (16,), "bits", 9, 0, None, None),
    ]
    offsets = locate_rows(rows)
    assert (offsets["c"].code, offsets["c"].values) == (6, 0)
    assert (offsets["d"].code, offsets["d"].values) == (0, 28)
