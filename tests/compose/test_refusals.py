"""Whatever does not belong together: one clear line."""

from __future__ import annotations

import contextlib
import dataclasses
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from graft.compose import sources
from graft.compose.composition import compose_patches
from graft.compose.exclusion import exclude_patches
from graft.compose.region_overlap import measure_overlap
from graft.errors import ConfigError, GraftError, PatchFormatError, PatchMismatchError
from graft.patch.format.writing import save_patch
from graft.patch.provenance import BaseIdentity
from graft.patch.skill_patch import Patch
from tests.checkpoints import join_file, make_patch, split_file
from tests.compose.patches import BASE, ORIGIN, patch_of

A, B = patch_of({("layers.0.w", 1): 5.0}), patch_of({("layers.0.w", 2): 5.0})
OPERATIONS: list[Callable[[Patch, Patch], object]] = [
    lambda a, b: compose_patches(a, b),
    lambda a, b: exclude_patches(a, b),
    lambda a, b: measure_overlap(a, b),
]
EACH = pytest.mark.parametrize("operate", OPERATIONS, ids=["compose", "exclude", "overlap"])


def from_base(patch: Patch, **identity: object) -> Patch:
    base = dataclasses.replace(ORIGIN.base, **identity)  # type: ignore[arg-type]
    return dataclasses.replace(patch, provenance=dataclasses.replace(ORIGIN, base=base))


@EACH
def test_patches_of_different_bases_are_refused(operate: Callable[[Patch, Patch], object]) -> None:
    operate(A, B)
    with pytest.raises(PatchMismatchError, match=r"1 and 2 are of different bases: base \(abab.*… digest\) and other"):
        operate(A, from_base(B, digest="cd" * 32, name="other"))
    with pytest.raises(PatchMismatchError, match=r"of different bases: base \(26 parameters\)"):
        operate(from_base(A, digest=None), from_base(B, digest=None, n_parameters=27))


@EACH
def test_one_tensor_in_two_shapes_is_refused(operate: Callable[[Patch, Patch], object]) -> None:
    wide = make_patch({"layers.0.w": torch.zeros(4, 3)}, {"layers.0.w": {0: 1.0}})
    with pytest.raises(PatchMismatchError, match=r"'layers.0.w' is F32\[3, 4\] in 1 and F32\[4, 3\] in 2"):
        operate(A, wide)


def test_one_tensor_in_two_dtypes_is_refused() -> None:
    half = make_patch({"layers.0.w": BASE["layers.0.w"].half()}, {"layers.0.w": {0: 1.0}})
    with pytest.raises(PatchMismatchError, match=r"'layers.0.w' is F32\[3, 4\] in 1 and F16\[3, 4\] in 2"):
        compose_patches(A, half)


def test_bases_that_differ_where_only_values_can_tell() -> None:
    other = make_patch({"layers.0.w": BASE["layers.0.w"] + 1}, {"layers.0.w": {1: 5.0}}, with_base_values=True)
    with pytest.raises(PatchMismatchError, match=r"2 stores other base values"):
        compose_patches(A, other)
    bare = dataclasses.replace(other, base_values=None)
    with pytest.raises(PatchMismatchError, match=r"'layers.0.w': 1 and 2 are of different bases"):
        compose_patches(dataclasses.replace(A, base_values=None), bare)


def test_a_mask_where_values_are_needed(tmp_path: Path) -> None:
    save_patch(A.mask, tmp_path / "region")
    with pytest.raises(PatchFormatError, match=r"region: a mask holds no values; this needs a patch"):
        compose_patches(B, tmp_path / "region")
    with pytest.raises(PatchFormatError, match=r"region: a mask holds no values"):
        exclude_patches(tmp_path / "region", B)
    assert measure_overlap(A, tmp_path / "region").pairs[0].jaccard == 1
    assert len(exclude_patches(B, tmp_path / "region")) == 1


def test_another_format_and_junk_are_refused(tmp_path: Path) -> None:
    save_patch(A, tmp_path / "good")
    header, meta, payload = split_file((tmp_path / "good").read_bytes())
    (tmp_path / "new").write_bytes(join_file(header, {**meta, "format": 3}, payload))
    (tmp_path / "junk").write_bytes(b"junk")
    for name, said in (("new", "format 3 is not known here"), ("junk", "not a safetensors file"), ("gone", "gone")):
        with pytest.raises(PatchFormatError, match=said):
            compose_patches(tmp_path / "good", tmp_path / name)


@pytest.mark.parametrize("place", ["values.F32", "base.F32", "gaps"])
def test_a_file_whose_bytes_changed_is_refused_when_its_row_is_read(place: str, tmp_path: Path) -> None:
    changed = patch_of({("layers.0.w", 1): 5.0, ("layers.1.w", 2): 1.0})
    save_patch(changed, tmp_path / "p")
    assert len(compose_patches(tmp_path / "p")) == 2
    header, meta, payload = split_file((tmp_path / "p").read_bytes())
    start, stop = header[place]["data_offsets"]
    flipped = bytearray(payload)
    flipped[stop - 1] = 0xFF if place == "gaps" else flipped[stop - 1] ^ 1
    (tmp_path / "p").write_bytes(join_file(header, meta, bytes(flipped)))
    assert start < stop
    with pytest.raises(PatchFormatError, match=r"p: tensor 'layers"):
        compose_patches(tmp_path / "p")


def test_a_file_cut_short_between_opening_and_reading_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_patch(A, tmp_path / "p")
    (source,) = sources.open_sources([tmp_path / "p"], values=True)
    assert source.read("layers.0.w").indices.tolist() == [1]
    (tmp_path / "p").write_bytes((tmp_path / "p").read_bytes()[:-3])
    with pytest.raises(PatchFormatError, match=r"p: cut short while it was read"):
        source.read("layers.0.w")
    (tmp_path / "p").unlink()
    with pytest.raises(PatchFormatError, match=r"p: cannot be read \(No such file"):
        source.read("layers.0.w")


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"on_overlap 'max': choose from error, first"):
        compose_patches(A, on_overlap="max")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="0 patches at once"):
        compose_patches()
    with pytest.raises(ConfigError, match="two patches or more"):
        measure_overlap(A)
    for threshold in (0.0, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="is not above 0 and at most 1"):
            measure_overlap(A, B, threshold=threshold)


def test_a_thousand_patches_compose_and_more_are_refused_before_any_is_opened(tmp_path: Path) -> None:
    for i in range(10):
        save_patch(patch_of({("layers.0.w", i): 5.0, ("head.b", 0): float(i)}), tmp_path / f"{i}")
    paths = [tmp_path / f"{i % 10}" for i in range(1000)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, limits[1]))
    try:
        whole = compose_patches(*paths, on_overlap="mean")
        with pytest.raises(OSError, match="Too many open files"), contextlib.ExitStack() as stack:
            _ = [stack.enter_context(path.open("rb")) for path in paths]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(whole) == 11
    assert whole.values["head.b"].tolist() == [4.5]
    with pytest.raises(ConfigError, match=r"1,025 patches at once, where 1 to 1,024 can be"):
        compose_patches(*[tmp_path / "gone"] * 1025)


def test_a_thousand_regions_are_excluded_and_compared_and_more_are_refused() -> None:
    regions = [patch_of({("layers.0.w", i): 5.0}) for i in range(10)]
    whole = patch_of({("layers.0.w", i): 5.0 for i in range(12)})
    rest = exclude_patches(whole, *(regions[i % 10] for i in range(1000)))
    assert rest.mask["layers.0.w"].tolist() == [10, 11]
    pairs = measure_overlap(*(regions[i % 10] for i in range(1000))).pairs
    assert sum(pair.intersection for pair in pairs) == 10 * (100 * 99 // 2)  # each with its 99 twins
    for operate in (exclude_patches, measure_overlap):
        with pytest.raises(ConfigError, match=r"1,025 patches at once"):
            operate(*[whole] * 1025)


def test_what_the_provenance_says_may_be_anything() -> None:
    odd = {"overlap": [1], "earlier": 3, "nested": {"a": {"b": []}}, "method": ["x"]}
    strange = dataclasses.replace(
        A, provenance=dataclasses.replace(ORIGIN, method=odd, task={"name": 7}, base=BaseIdentity())
    )
    try:
        assert len(compose_patches(strange, B)) == 2
    except GraftError:
        pytest.fail("a stranger's words are no reason to refuse")
