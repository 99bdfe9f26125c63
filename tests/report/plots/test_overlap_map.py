from __future__ import annotations

import json
from pathlib import Path

import pytest

from graft.compose.region_overlap import Overlap, measure_overlap
from graft.errors import OutputError
from graft.files.tensor_spec import TensorSpec
from graft.patch.mask import Mask
from graft.report.plots.overlap_map import MOST_WRITTEN, write_overlap
from tests.checkpoints import files_below
from tests.report.conftest import Drawn

FILES = ["dendrogram.png", "overlap.json", "overlap_map.png"]


def overlap(m: int) -> Overlap:
    """Two families of which neighbors share, and none of one family with the other."""
    spec = {"layers.0.w": TensorSpec("F32", (1000,))}
    regions = [
        Mask.of(spec, {"layers.0.w": range(10 * i + 500 * (i % 2), 10 * i + 500 * (i % 2) + 25)}) for i in range(m)
    ]
    return measure_overlap(*regions, labels=[f"runs/$a_{i}.safetensors" for i in range(m)])


def test_the_folder_holds_numbers_and_both_plots_and_comes_out_the_same_twice(tmp_path: Path, drawn: Drawn) -> None:
    found = overlap(4)
    for name in ("one", "two"):
        write_overlap(found, tmp_path / name)
    assert files_below(tmp_path / "one") == FILES
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in FILES)
    assert json.loads((tmp_path / "one" / "overlap.json").read_text()) == found.to_json()
    assert f"{found.pairs[1].jaccard:.3f}" in drawn.words(0)
    assert "a_3" in drawn.words(0)
    assert "a_3" in drawn.words(1)
    with pytest.raises(OutputError, match="exists already"):
        write_overlap(found, tmp_path / "one")


def test_many_regions_are_drawn_without_numbers_in_the_cells(tmp_path: Path, drawn: Drawn) -> None:
    found = overlap(MOST_WRITTEN + 1)
    write_overlap(found, tmp_path / "many")
    assert f"{found.pairs[1].jaccard:.3f}" not in drawn.words(0)
