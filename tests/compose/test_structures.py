"""Compositions and differences of patches of whole lines."""

from __future__ import annotations

from pathlib import Path

from graft.compose.composition import compose_patches
from graft.compose.exclusion import exclude_patches
from graft.localize.localization import localize_skill
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import patch_bytes, save_patch
from graft.specs.localize import LocalizeSpec
from tests.checkpoints import equal_patches, split_file


def test_parts_of_lines_give_lines_and_others_do_not(base: Path, tuned: Path, tmp_path: Path) -> None:
    few, more = (
        localize_skill(base, tuned, None, LocalizeSpec("magnitude", structure="columns", lines=n)) for n in (3, 8)
    )
    free = localize_skill(base, tuned, None, LocalizeSpec("magnitude", budget=100))
    both = compose_patches(few, more, on_overlap="first", base=base)
    assert both.mask == more.mask
    left = exclude_patches(more, few, base=base)
    for patch, number in ((both, 2), (left, 2), (compose_patches(few, free, on_overlap="first", base=base), 1)):
        assert split_file(patch_bytes(patch))[1]["format"] == number
    save_patch(left, tmp_path / "left")
    assert equal_patches(load_patch(tmp_path / "left"), left)
