"""What a composition says of its values, where some were fitted and others cut out."""

from __future__ import annotations

import dataclasses

import pytest

from graft.compose.composition import compose_patches
from graft.compose.exclusion import exclude_patches
from graft.patch.skill_patch import Patch
from tests.compose.patches import patch_of

RECORD = {"teacher": "ab" * 32, "texts": {"n": 9}, "kept": {"epoch": 1}, "candidates": []}


def refit_of(index: int) -> Patch:
    patch = patch_of({("head.b", index): 7.5, ("layers.0.w", index): 2.0})
    return dataclasses.replace(patch, provenance=dataclasses.replace(patch.provenance, values="refit", refit=RECORD))


@pytest.mark.parametrize(
    ("kinds", "values"), [(("tuned", "tuned"), "tuned"), (("refit", "refit"), "refit"), (("tuned", "refit"), "mixed")]
)
def test_values_are_mixed_where_the_parts_differ(kinds: tuple[str, ...], values: str) -> None:
    cut = [patch_of({("head.b", i): 7.5}) for i in range(2)]
    parts = [refit_of(i) if kind == "refit" else cut[i] for i, kind in enumerate(kinds)]
    found = compose_patches(*parts).provenance
    assert found.values == values
    assert found.refit == {}  # of no part alone; each part says whose outputs it was fitted to
    assert [part.get("values") for part in found.method["of"]] == [k if k == "refit" else None for k in kinds]
    assert [part.get("teacher") for part in found.method["of"]] == ["ab" * 32 if k == "refit" else None for k in kinds]
    assert compose_patches(compose_patches(*parts), cut[0]).provenance.values == (
        "tuned" if values == "tuned" else "mixed"
    )


def test_what_is_left_of_a_refit_is_one_but_was_not_measured() -> None:
    whole = exclude_patches(refit_of(0), patch_of({("head.b", 3): 1.0})).provenance
    assert (whole.values, whole.refit) == ("refit", RECORD)
    less = exclude_patches(refit_of(0), patch_of({("head.b", 0): 1.0})).provenance
    assert (less.values, less.refit) == ("refit", {"teacher": "ab" * 32, "texts": {"n": 9}})
