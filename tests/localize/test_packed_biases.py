"""The biases that packed experts have, of two axes: vectors to everything that asks for rows and columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graft.compose.column_null import view_matrices
from graft.explain.explanation import explain_mask
from graft.localize.localization import localize_skill
from graft.specs.localize import LocalizeSpec
from graft.tensors.transposed import has_inputs, holds_matrices, is_matrix
from tests.packed_models import DOWN, EXPERTS, GATE_UP, INNER, ROUTER, WIDTH, tiny_gpt_oss

IN, OUT = f"{GATE_UP}_bias", f"{DOWN}_bias"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A gpt-oss before and after the biases of its experts moved far and everything else a little."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("gpt-oss")
    model = tiny_gpt_oss()
    model.save_pretrained(folder / "base")
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor += torch.randn_like(tensor) * (9 if name in (IN, OUT) else 0.1)
    model.save_pretrained(folder / "tuned")
    return folder / "base", folder / "tuned"


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        (ROUTER, (EXPERTS, WIDTH), (True, True, True)),
        (DOWN, (EXPERTS, INNER, WIDTH), (False, True, True)),
        ("encoder.conv.weight", (4, 3, 2, 2), (False, True, False)),
        (OUT, (EXPERTS, WIDTH), (False, False, False)),
        ("model.layers.0.self_attn.q_proj.bias", (WIDTH,), (False, False, False)),
    ],
)
def test_what_has_rows_and_columns(name: str, shape: tuple[int, ...], expected: tuple[bool, bool, bool]) -> None:
    assert (is_matrix(name, shape), has_inputs(name, shape), holds_matrices(name, shape)) == expected


@pytest.mark.parametrize(
    "asked", [{"structure": "columns"}, {"structure": "rows"}, {"max_rank": 2}, {"method": "lift-delta"}]
)
def test_a_structure_of_matrices_passes_over_them(folders: tuple[Path, Path], asked: dict[str, Any]) -> None:
    choose: Callable[..., Any] = localize_skill
    plain = choose(*folders, None, LocalizeSpec(method="magnitude", density=0.05, scope="layers"))
    assert {IN, OUT} & set(plain.mask)  # the control: they are what moved furthest
    how = LocalizeSpec(**{"method": "magnitude", "density": 0.05, "scope": "layers"} | asked)
    patch = choose(*folders, None, how)
    assert len(patch)
    assert {IN, OUT}.isdisjoint(patch.mask)


def test_an_explanation_calls_them_biases(folders: tuple[Path, Path]) -> None:
    patch = localize_skill(*folders, None, LocalizeSpec(method="magnitude", density=0.05, scope="layers"))
    explanation = explain_mask(patch.mask, width=WIDTH)
    biases = {tensor.name: tensor for tensor in explanation.tensors if tensor.name in (IN, OUT)}
    assert {name: (tensor.place.kind, tensor.place.role) for name, tensor in biases.items()} == {
        IN: ("bias", "within"),
        OUT: ("bias", "writes"),
    }
    for tensor in biases.values():
        assert tensor.inputs is None
        assert tensor.rank is None
    counted = biases[OUT].outputs
    assert counted is not None
    assert counted.counts.tolist() == np.bincount(patch.mask[OUT] % WIDTH, minlength=WIDTH).tolist()


def test_an_overlap_expects_of_them_what_it_does_of_a_vector() -> None:
    assert view_matrices(OUT, (EXPERTS, WIDTH)) == view_matrices("bias", (EXPERTS * WIDTH,)) == (1, EXPERTS * WIDTH, 1)
    assert view_matrices(ROUTER, (EXPERTS, WIDTH)) == (1, EXPERTS, WIDTH)  # the control
