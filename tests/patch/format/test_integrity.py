"""Integrity of a file by the hashes that it holds: every flipped bit is seen, and an older file still loads."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from graft.compose.composition import compose_patches
from graft.compose.region_overlap import measure_overlap
from graft.errors import CheckpointError, GraftError, PatchFormatError
from graft.files.tensor_spec import TensorSpec
from graft.patch.format.integrity import AGREE, UNSEALED
from graft.patch.format.reading import describe_integrity, load_mask, load_patch, load_region
from graft.patch.format.writing import patch_bytes, save_patch
from graft.patch.mask import Mask
from graft.train.importance import importance_file as importance
from graft.train.importance.importance_weights import ImportanceWeights, keep_importance
from tests.checkpoints import equal_patches, join_file, make_patch, sample_patch, sample_tensors, split_file

PATCH = sample_patch()
MASK = Mask.of(
    {"a": TensorSpec("BF16", (64, 9)), "b": TensorSpec("F32", (70_000,)), "c": TensorSpec("F32", (4,))},
    {"a": range(0, 576, 3), "b": [0, 65_535, 69_999], "c": range(4)},
)


def some_importance() -> ImportanceWeights:
    tensors = sample_tensors()
    return keep_importance(
        {name: tensor.abs().flatten().clone for name, tensor in tensors.items()}, tensors, 0.6, "|w|"
    )


def importance_bytes(folder: Path) -> bytes:
    importance.save_importance(some_importance(), folder / "importance", force=True)
    return (folder / "importance").read_bytes()


def header_length(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def flips(data: bytes, start: int, stop: int, step: int = 1) -> Iterator[bytes]:
    """Yield the file with one bit of one byte flipped: every byte, the bits in turn, or every bit if `step` is 1."""
    damaged = bytearray(data)
    for offset in range(start, stop):
        for bit in range(offset % step, 8, step):
            damaged[offset] ^= 1 << bit
            yield bytes(damaged)
            damaged[offset] ^= 1 << bit


LOADERS: dict[str, tuple[Callable[[Path], bytes], Callable[[Path], object], type[GraftError]]] = {
    "patch": (lambda folder: patch_bytes(PATCH), load_patch, PatchFormatError),
    "mask": (lambda folder: patch_bytes(MASK), load_region, PatchFormatError),
    "importance": (importance_bytes, importance.load_importance, CheckpointError),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_every_flipped_bit_of_the_data_is_refused(kind: str, tmp_path: Path) -> None:
    make, load, error = LOADERS[kind]
    data, path = make(tmp_path), tmp_path / "p"
    path.write_bytes(data)
    load(path)  # the control
    tried = 0
    for damaged in flips(data, header_length(data), len(data)):
        path.write_bytes(damaged)
        with pytest.raises(error, match=r"tensor '.*do(es)? not match"):
            load(path)
        tried += 1
    assert tried == 8 * (len(data) - header_length(data)) > 300


def effect_of(load: Callable[[Path], Any], path: Path) -> Any:
    """Return the part of a file that has an effect; its provenance only explains."""
    loaded = load(path)
    if isinstance(loaded, ImportanceWeights):
        entries = [(name, loaded.mask[name].tolist(), loaded.omega[name].float().tolist()) for name in loaded.mask]
        return entries, loaded.scale, loaded.method, loaded.mask.specs, loaded.hashes
    if isinstance(loaded, tuple):
        return loaded[0].specs, {name: loaded[0][name].tolist() for name in loaded[0]}
    parts = (loaded.values, loaded.base_values, loaded.dense)
    tensors = [{name: (tensor.shape, tensor.tolist()) for name, tensor in part.items()} for part in parts]
    return tensors, loaded.mask.specs, {n: loaded.mask[n].tolist() for n in loaded.mask}, loaded.base_hashes


@pytest.mark.parametrize("kind", LOADERS)
def test_no_flipped_bit_of_the_header_changes_what_is_done(kind: str, tmp_path: Path) -> None:
    make, load, _ = LOADERS[kind]
    data, path = make(tmp_path), tmp_path / "p"
    path.write_bytes(data)
    wanted, harmless = effect_of(load, path), 0
    for damaged in flips(data, 0, header_length(data), step=8):
        path.write_bytes(damaged)
        try:
            assert effect_of(load, path) == wanted
            harmless += 1
        except GraftError:
            continue
    assert harmless < header_length(data) / 2  # in blanks, and in what explains and does not act


def meta_of(data: bytes) -> dict[str, Any]:
    return split_file(data)[1]


@pytest.mark.parametrize("region", [PATCH, MASK], ids=["patch", "mask"])
def test_the_hashes_are_those_of_the_contract(region: Any) -> None:
    header, meta, payload = split_file(patch_bytes(region))
    spans = {name: payload[slice(*entry["data_offsets"])] for name, entry in header.items()}
    assert meta["content"] == {name: hashlib.sha256(data).hexdigest()[:32] for name, data in spans.items()}
    text = json.dumps(meta["tensors"], sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    assert meta["table"] == hashlib.sha256(text.encode()).hexdigest()[:32]
    assert patch_bytes(region) == patch_bytes(region)


def without_hashes(data: bytes, *, keys: tuple[str, ...] = ("content", "table")) -> bytes:
    header, meta, payload = split_file(data)
    return join_file(header, {key: value for key, value in meta.items() if key not in keys}, payload, seal=False)


def test_an_older_file_loads_and_is_said_to_be_one(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    save_patch(PATCH, new)
    old.write_bytes(without_hashes(new.read_bytes()))
    assert equal_patches(load_patch(old), PATCH)
    assert equal_patches(compose_patches(old, new), compose_patches(new, new, labels=["old", "new"]))
    assert (describe_integrity(new), describe_integrity(old)) == (AGREE, UNSEALED)
    old.write_bytes(without_hashes(patch_bytes(MASK)))
    assert load_mask(old) == MASK


def test_an_older_file_of_importance_loads_and_is_said_to_be_one(tmp_path: Path) -> None:
    data, path = importance_bytes(tmp_path), tmp_path / "old"
    length = header_length(data)
    header = json.loads(data[8:length])
    meta = json.loads(header["__metadata__"][importance.KEY])
    older = {key: value for key, value in meta.items() if key not in ("content", "table")}
    header["__metadata__"][importance.KEY] = json.dumps(older)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[length:])
    assert importance.load_importance(path).mask == some_importance().mask
    assert importance.describe_integrity(path) == UNSEALED
    assert importance.describe_integrity(tmp_path / "importance") == AGREE


def spoilt_seals() -> dict[str, tuple[Callable[[dict[str, Any]], object], str]]:
    def content(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
        return lambda meta: change(meta["content"])

    return {
        "one missing": (content(lambda hashes: hashes.pop("bits")), "'bits' is not among its hashes"),
        "dense missing": (content(lambda hashes: hashes.pop("dense/temperature")), "'dense/temperature' is not among"),
        "none": (lambda meta: meta.update(content={}), "is not among its hashes"),
        "one more": (content(lambda hashes: hashes.update(zebra="0" * 32)), "'zebra' is hashed, but not in the file"),
        "short": (content(lambda hashes: hashes.update(bits="0" * 31)), "'bits' has a hash that is not 32"),
        "long": (content(lambda hashes: hashes.update(bits="0" * 33)), "'bits' has a hash that is not 32"),
        "whole": (content(lambda hashes: hashes.update(bits="0" * 64)), "'bits' has a hash that is not 32"),
        "in capitals": (content(lambda hashes: hashes.update(bits="A" * 32)), "'bits' has a hash that is not 32"),
        "a number": (content(lambda hashes: hashes.update(bits=7)), "'bits' has a hash that is not 32"),
        "with a line end": (content(lambda hashes: hashes.update(bits="0" * 32 + "\n")), "'bits' has a hash"),
        "null": (content(lambda hashes: hashes.update(bits=None)), "'bits' has a hash that is not 32"),
        "another": (content(lambda hashes: hashes.update(bits="0" * 32)), "'bits': its bytes do not match their hash"),
        "swapped": (
            content(lambda hashes: hashes.update(bits=hashes["gaps"], gaps=hashes["bits"])),
            "'(bits|gaps)': its bytes do not match",
        ),
        "a list": (lambda meta: meta.update(content=list(meta["content"])), "not a table of hashes"),
        "a null": (lambda meta: meta.update(content=None), "not a table of hashes"),
        "no content": (lambda meta: meta.pop("content"), "not a table of hashes"),
        "no table": (lambda meta: meta.pop("table"), "not a table of hashes"),
        "table null": (lambda meta: meta.update(table=None), "not a table of hashes"),
        "another table": (lambda meta: meta.update(table="0" * 32), "its table of tensors does not match its hash"),
        "another name": (lambda meta: meta["tensors"][0].__setitem__(0, "all.f15"), "table of tensors does not match"),
        "another shape": (lambda meta: meta["tensors"][0].__setitem__(2, [3, 2]), "table of tensors does not match"),
        "another print": (lambda meta: meta["tensors"][0].__setitem__(6, "0" * 16), "table of tensors does not match"),
    }


@pytest.mark.parametrize("name", spoilt_seals())
def test_hashes_that_are_none_or_not_of_this_file_are_refused(name: str, tmp_path: Path) -> None:
    header, meta, payload = split_file(patch_bytes(PATCH))
    path = tmp_path / "p"
    path.write_bytes(join_file(header, meta, payload, seal=False))
    assert equal_patches(load_patch(path), PATCH)
    change, fact = spoilt_seals()[name]
    change(meta)
    path.write_bytes(join_file(header, meta, payload, seal=False))
    for load in (load_patch, load_mask, lambda path: measure_overlap(path, MASK), lambda path: compose_patches(path)):
        with pytest.raises(PatchFormatError, match=fact):
            load(path)


def test_readers_by_rows_see_every_flipped_byte_before_anything_is_used(tmp_path: Path) -> None:
    data, path = patch_bytes(PATCH), tmp_path / "p"
    path.write_bytes(data)
    measure_overlap(path, PATCH)  # the control
    for damaged in flips(data, header_length(data), len(data), step=8):
        path.write_bytes(damaged)
        for use in (measure_overlap, compose_patches):
            with pytest.raises(PatchFormatError, match="do not match their hash"):
                use(path, PATCH)


def test_hashing_takes_no_second_copy(tmp_path: Path) -> None:
    n = 2**21
    patch = make_patch({"w": torch.zeros(n)}, {"w": {0: 1.0}}, dense={"head.weight": torch.ones(n)})
    save_patch(patch, tmp_path / "p")
    tracemalloc.start()
    loaded = load_patch(tmp_path / "p")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    n_before = tracemalloc.get_traced_memory()[0]
    measure_overlap(tmp_path / "p", patch)
    n_added = tracemalloc.get_traced_memory()[1] - n_before
    tracemalloc.stop()
    assert equal_patches(loaded, patch)
    assert peak < 1.4 * 4 * n
    assert n_added < 4 * 2**20  # chunks of one, however large the tensor
