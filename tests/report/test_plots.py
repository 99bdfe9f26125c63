from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.evaluate.calibration import expected_calibration_error, reliability_bins
from graft.evaluate.outcomes import Outcomes
from graft.files.tensor_spec import TensorSpec
from graft.patch.mask import Mask
from graft.report.layer_map import count_entries, plot_layer_map
from graft.report.reliability import plot_reliability, pool_bins


def outcomes(n: int, seed: int, classes: int = 2) -> Outcomes:
    draws = np.random.default_rng(seed)
    return Outcomes.from_probabilities(draws.dirichlet(np.ones(classes), n), draws.integers(0, classes, n))


def join(parts: list[Outcomes]) -> Outcomes:
    arrays = ("label", "predicted", "confidence", "log_likelihood", "squared_error")
    return Outcomes(*(np.concatenate([getattr(part, key) for part in parts]) for key in arrays), parts[0].n_classes)


MASK = Mask.of(
    {f"encoder.layer.{i}.mlp.{part}": TensorSpec("F32", (50,)) for i in (0, 2, 10) for part in ("weight", "bias")}
    | {"embeddings.word_embeddings.weight": TensorSpec("F32", (9,))},
    {
        "encoder.layer.0.mlp.weight": range(7),
        "encoder.layer.2.mlp.weight": range(40),
        "encoder.layer.2.mlp.bias": range(2),
        "encoder.layer.10.mlp.bias": range(3),
        "embeddings.word_embeddings.weight": [8],
    },
)


def draw_all(folder: Path) -> list[Path]:
    bins = {name: reliability_bins(outcomes(90, i)) for i, name in enumerate(("base", "tuned", "graft (taylor)"))}
    bins["five classes"] = reliability_bins(outcomes(20, 4, 5))  # empty bins, and confidences under a half
    files = plot_reliability(bins, folder / "reliability", title="Reliability")
    return files + plot_layer_map(MASK, folder / "layers", title="Layers")


def test_plots_are_png_and_svg(tmp_path: Path) -> None:
    files = draw_all(tmp_path)
    assert [file.name for file in files] == ["reliability.png", "reliability.svg", "layers.png", "layers.svg"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files[::2])
    texts = [file.read_text() for file in files[1::2]]
    assert all("<svg" in text for text in texts)
    assert not any("dc:date" in text for text in texts)


def test_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        files = [file.name for file in draw_all(tmp_path / name)]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_a_name_may_hold_dots(tmp_path: Path) -> None:
    files = plot_layer_map(MASK, tmp_path / "layers.v1", title="")
    assert [file.name for file in files] == ["layers.v1.png", "layers.v1.svg"]


def test_no_display_is_needed(tmp_path: Path) -> None:
    code = (
        "import sys; from graft.report.figure import new_figure; new_figure(1, 1); print('pyplot' in str(sys.modules))"
    )
    environment = {"PATH": "", "HOME": str(tmp_path), "MPLCONFIGDIR": str(tmp_path)}
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True)
    assert run.stdout == "False\n"


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(2, 5))
def test_pooled_bins_are_the_bins_of_pooled_data(sizes: list[int], classes: int) -> None:
    parts = [outcomes(n, seed, classes) for seed, n in enumerate(sizes)]
    pooled, expected = pool_bins([reliability_bins(part) for part in parts]), reliability_bins(join(parts))
    for key in ("edges", "count", "confidence", "accuracy"):
        np.testing.assert_allclose(getattr(pooled, key), getattr(expected, key), err_msg=key)
    assert float(pooled.share @ pooled.gap) == pytest.approx(expected_calibration_error(join(parts)))


def test_the_layer_map_counts_every_entry_once() -> None:
    layers, modules, counts = count_entries(MASK)
    assert layers == ["embeddings", "encoder.layer.0", "encoder.layer.2", "encoder.layer.10"]
    assert modules == ["mlp", "word_embeddings"]
    assert counts.tolist() == [[0, 1], [7, 0], [42, 0], [3, 0]]
    assert counts.sum() == len(MASK)
