from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graft.errors import ConfigError
from graft.explain.explanation import explain_mask
from graft.files.tensor_spec import TensorSpec
from graft.patch.mask import Mask
from graft.report.plots.stream_map import plot_stream, write_stream
from graft.report.plots.style import is_plot
from tests.report.conftest import Drawn


def mask_of(*names: str) -> Mask:
    specs = {name: TensorSpec("F32", (64, 16)) for name in names}
    return Mask.of(specs, {name: np.array([3, 19, 35, 7]) for name in names})


def test_layers_and_commonest_dimensions_are_named(tmp_path: Path, drawn: Drawn) -> None:
    names = [f"encoder.layer.{i}.intermediate.dense.weight" for i in (2, 10)]
    plot_stream(explain_mask(mask_of(*names)), tmp_path / "map", title="what it reads")
    words = drawn.words().split()
    assert "encoder.layer.2" in words
    assert words.index("encoder.layer.2") < words.index("encoder.layer.10")
    assert words.count("3") >= 3  # the dimension, and its entries in both layers


def test_one_file_is_written_where_nothing_reads(tmp_path: Path) -> None:
    explanation = explain_mask(mask_of("embeddings.word_embeddings.weight"))
    write_stream(explanation, tmp_path / "map.png", title="embeddings alone")
    assert is_plot(tmp_path / "map.png")
    nothing = explain_mask(Mask.of({"scale": TensorSpec("F32", ())}, {"scale": [0]}))
    with pytest.raises(ConfigError, match="nothing to draw"):
        write_stream(nothing, tmp_path / "none.png", title="nothing meets the stream")
    assert [file.name for file in tmp_path.iterdir()] == ["map.png"]
