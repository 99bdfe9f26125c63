"""What two checkpoints differ in beside their weights is said, and counts in no budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from graft.errors import BudgetError, MismatchError
from graft.localize.diagnosis import diagnose_movement
from graft.localize.localization import localize_skill
from graft.localize.movement import diff_checkpoints, find_core
from graft.localize.pair_notes import describe_differences
from graft.patch.merge import merge_patches
from graft.specs.localize import LocalizeSpec
from graft.tensors.checkpoint import Checkpoint
from tests.checkpoints import Tensors, bits_of, write_single
from tests.models import word_tokenizer

W = "layers.0.w"
MOVED = list(range(0, 400, 10))


def checkpoints(folder: Path, base: torch.dtype, tuned: torch.dtype, *, widened: bool = False) -> tuple[Path, Path]:
    """A base, and a model that was tuned from it in another dtype: few entries of one tensor moved."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"embed.weight": (9, 8), W: (32, 32), "layers.1.w": (32, 32), "norm.weight": (32,)}
    before = {name: torch.randn(shape, generator=generator).to(base) for name, shape in shapes.items()}
    after = {name: tensor.to(tuned) for name, tensor in before.items()}
    after[W] = after[W].clone()
    after[W].view(-1)[MOVED] += torch.tensor(2.0, dtype=tuned)
    if widened:
        after = {name: tensor.to(base) for name, tensor in after.items()}
    return write_single(folder / "base", before), write_single(folder / "tuned", after)


DTYPES: dict[str, Any] = {
    "bf16 from fp32": (torch.float32, torch.bfloat16),
    "fp16 from fp32": (torch.float32, torch.float16),
    "bf16 from fp16": (torch.float16, torch.bfloat16),
    "bf16 from fp64": (torch.float64, torch.bfloat16),
}


@pytest.mark.parametrize(
    ("name", "widened"), [*((name, False) for name in DTYPES), ("bf16 from fp32", True), ("fp16 from fp32", True)]
)
def test_rounding_alone_is_counted_and_never_selected(name: str, widened: bool, tmp_path: Path) -> None:
    base, tuned = checkpoints(tmp_path, *DTYPES[name], widened=widened)
    found = describe_differences(base, tuned, "all", whole=True)
    whole = diff_checkpoints(base, tuned)
    assert 1000 < found.rounded == len(whole) - len(MOVED)
    assert f"{found.rounded:,} entries differ by rounding alone and are kept" in found.notes[0]
    merge_patches(Checkpoint.open(base), [whole], tmp_path / "out")
    out, goal = Checkpoint.open(tmp_path / "out"), Checkpoint.open(tuned)
    expected = {n: goal.read(n).to(out.read(n).dtype) for n in goal.names}
    assert bits_of({n: out.read(n) for n in out.names}) == bits_of(expected)
    for method in ("magnitude", "relative", "random"):
        for allocation in ("global", "per-tensor", "per-layer"):
            config = LocalizeSpec(method, budget=len(MOVED), scope="all", allocation=allocation)  # type: ignore[arg-type]
            mask = localize_skill(base, tuned, None, config).mask
            assert {n: mask[n].tolist() for n in mask} == {W: MOVED}
    assert find_core(base, tuned, 1.0)[W].tolist() == MOVED
    with pytest.raises(BudgetError, match="only 40 in scope changed"):
        diff_checkpoints(base, tuned, budget=len(MOVED) + 1)
    with pytest.raises(BudgetError, match="equal in scope but for rounding"):
        diff_checkpoints(base, tuned, budget=1, scope="embeddings")
    assert diagnose_movement(base, tuned, scope="all").changed == pytest.approx(len(MOVED) / (72 + 2048 + 32))


def test_a_wider_tuned_model_is_said_to_be_rounded(tmp_path: Path) -> None:
    base, tuned = checkpoints(tmp_path, torch.bfloat16, torch.float32)
    with_noise = {name: Checkpoint.open(tuned).read(name) * (1 + 2**-12) for name in Checkpoint.open(tuned).names}
    found = describe_differences(base, write_single(tmp_path / "noisy", with_noise), "all", whole=True)
    assert found.rounded == 0
    assert found.notes == ("the base is BF16, the tuned checkpoint F32: its values are rounded to BF16",)
    assert describe_differences(base, tuned, "all", whole=True).to_json()["rounded"] == 0
    assert describe_differences(base, base, "all", whole=True).notes == ()


def two(folder: Path, before: Tensors, changes: Tensors) -> tuple[Path, Path]:
    return write_single(folder / "base", before), write_single(folder / "tuned", before | changes)


def test_other_sizes_are_said_to_travel_or_stay(tmp_path: Path) -> None:
    before = {"embed.weight": torch.zeros(7, 4), W: torch.zeros(4, 4), "score.weight": torch.zeros(2, 4)}
    changes = {"embed.weight": torch.ones(9, 4), W: torch.ones(4, 4), "score.weight": torch.ones(3, 4)}
    base, tuned = two(tmp_path, before, changes)
    wide = describe_differences(base, tuned, "all", whole=True)
    assert (wide.grown, wide.replaced, wide.left_out) == (("embed.weight",), ("score.weight",), ())
    assert wide.notes == (
        "'score.weight': a head of another size, replaced whole and counted apart",
        "the vocabulary grew from 7 to 9 rows: the new rows of 'embed.weight' are kept whole",
    )
    narrow = describe_differences(base, tuned, "layers", whole=True)
    assert narrow.to_json()["left_out"] == ["embed.weight"]
    assert "outside the scope layers: 'embed.weight' ([7, 4] to [9, 4]); --scope all would keep" in narrow.notes[0]


def test_a_smaller_vocabulary_is_refused_unless_it_is_out_of_scope(tmp_path: Path) -> None:
    before = {"embed.weight": torch.zeros(7, 4), W: torch.zeros(4, 4)}
    base, tuned = two(tmp_path, before, {"embed.weight": torch.ones(5, 4), W: torch.ones(4, 4)})
    for refused in (diff_checkpoints, diagnose_movement):
        with pytest.raises(MismatchError, match=r"'embed\.weight' has shape \[7, 4\].*such as --scope layers"):
            refused(base, tuned, scope="all")  # type: ignore[operator]
    assert len(diff_checkpoints(base, tuned, scope="layers")) == 16
    assert "left out" in describe_differences(base, tuned, "layers", whole=True).notes[0]


def test_buffers_are_counted_apart_and_left_out_of_budgets(tmp_path: Path) -> None:
    before = {W: torch.zeros(4), "norm.running_var": torch.zeros(3), "norm.inv_freq": torch.tensor([-torch.inf, 0.0])}
    changes = {W: torch.ones(4), "norm.running_var": torch.ones(3)}
    base, tuned = two(tmp_path, before, changes)
    for whole, fate in ((True, "are kept, counted apart"), (False, "are left out: a budget selects parameters")):
        found = describe_differences(base, tuned, "all", whole=whole)
        assert found.buffers == {"norm.running_var": 3}
        assert f"3 changed entries of buffers ('norm.running_var') {fate}" in found.notes[0]
    patch = diff_checkpoints(base, tuned)
    assert (patch.k, patch.provenance.base.n_parameters, len(patch)) == (4, 4, 7)
    assert list(diff_checkpoints(base, tuned, density=1.0).mask) == [W]


def test_new_rows_alone_make_no_patch(tmp_path: Path) -> None:
    before = {"embed.weight": torch.zeros(7, 4), W: torch.zeros(4, 4)}
    base, tuned = two(tmp_path, before, {"embed.weight": torch.zeros(8, 4)})
    with pytest.raises(BudgetError, match="equal but for new rows, which alone make no patch"):
        diff_checkpoints(base, tuned)


def test_tokens_in_rows_that_the_base_has_already_are_said_not_to_travel(tmp_path: Path) -> None:
    base, tuned = two(tmp_path, {"embed.weight": torch.zeros(48, 4), W: torch.zeros(2)}, {W: torch.ones(2)})
    tokenizer = word_tokenizer()
    for folder in (base, tuned):
        tokenizer.save_pretrained(folder)
    assert describe_differences(base, tuned, "all", whole=True).notes == ()
    tokenizer.add_tokens(["<a>"])
    tokenizer.save_pretrained(tuned)
    assert "1 tokens that the base's lacks" in describe_differences(base, tuned, "all", whole=True).notes[0]
