from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from graft.errors import BudgetError, OutputError, PatchError, PatchFormatError
from graft.files.tensor_spec import TensorSpec
from graft.patch.format.reading import load_mask, load_patch
from graft.patch.format.writing import patch_bytes, save_patch
from graft.patch.mask import Mask
from graft.patch.provenance import BaseIdentity, Provenance
from graft.patch.skill_patch import Patch
from graft.tensors.dtypes import TORCH_DTYPES, as_bits
from tests.checkpoints import (
    cut,
    equal_patches,
    join_file,
    make_patch,
    nudged,
    sample_patch,
    save_model,
    small_llama,
    split_file,
)

ROOT = Path(__file__).parents[3]
BASE = {"a": torch.arange(20.0), "b": torch.zeros(3)}


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    patch = sample_patch()
    save_patch(patch, tmp_path / "patch.safetensors")
    for path in (tmp_path / "patch.safetensors", tmp_path, str(tmp_path)):
        assert equal_patches(load_patch(path), patch)
    assert load_mask(tmp_path) == patch.mask
    values = load_patch(tmp_path).values
    assert as_bits(values["scalar.f32"]).tolist() == [-(2**31)]  # -0.0
    assert values["ß.f64"][0] == 1e300  # finite, though not in fp32


@pytest.mark.parametrize("dtype", sorted(TORCH_DTYPES))
def test_every_dtype_survives(dtype: str, tmp_path: Path) -> None:
    base = {"w": torch.ones(9).to(TORCH_DTYPES[dtype])}
    patch = make_patch(base, {"w": {0: 0, 4: 0, 8: 0}}, with_base_values=True)
    save_patch(patch, tmp_path / "p")
    assert equal_patches(load_patch(tmp_path / "p"), patch)


def test_the_codes_and_lengths_of_the_table_add_up_to_the_tensors() -> None:
    header, meta, _ = split_file(patch_bytes(sample_patch()))
    rows = meta["tensors"]
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert [row[3] for row in rows] == ["all", "bits", "gaps", "all", "bits", "gaps"]
    assert header["gaps"]["shape"] == [sum(row[5] for row in rows)]
    assert header["bits"]["shape"] == [sum(-(-torch.Size(row[2]).numel() // 8) for row in rows if row[3] == "bits")]
    assert header["values.F32"]["shape"] == [sum(row[4] for row in rows if row[1] == "F32")]
    assert set(header) == {
        *("gaps", "bits", "dense/classifier.bias", "dense/temperature"),
        *(f"{key}.{dtype}" for key in ("values", "base") for dtype in ("F16", "BF16", "F32", "I64", "F64")),
    }
    assert (meta["k"], meta["density"]) == (34, 34 / 70_078)


def test_one_metadata_key_of_canonical_json() -> None:
    data = patch_bytes(sample_patch())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert list(header["__metadata__"]) == ["skill_patch"]
    text = header["__metadata__"]["skill_patch"]
    meta = json.loads(text)
    assert text == json.dumps(meta, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    assert "ß" in text
    assert (meta["format"], meta["kind"], meta["base"]["id"]) == (1, "patch", None)


def test_the_same_patch_gives_the_same_bytes_in_any_process() -> None:
    data = patch_bytes(sample_patch())
    assert patch_bytes(sample_patch()) == data
    script = "import hashlib; from graft.patch.format.writing import patch_bytes; "
    script += (
        "from tests.checkpoints import sample_patch; print(hashlib.sha256(patch_bytes(sample_patch())).hexdigest())"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "12345"}
    out = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, check=True)
    assert out.stdout.decode().strip() == hashlib.sha256(data).hexdigest()


def test_values_are_absolute_and_nothing_is_empty(tmp_path: Path) -> None:
    save_patch(make_patch(BASE, {"a": {3: 7.5}, "b": {0: 1.0, 1: 2.0, 2: 3.0}}), tmp_path / "p")
    tensors = load_file(tmp_path / "p")
    assert tensors["values.F32"].tolist() == [7.5, 1.0, 2.0, 3.0]
    assert tensors["gaps"].tolist() == [3]
    assert set(tensors) == {"values.F32", "gaps"}


def test_an_empty_whole_tensor_is_left_out() -> None:
    header, _, _ = split_file(patch_bytes(make_patch(BASE, {"a": {3: 7.5}}, dense={"x": torch.empty(0, 4)})))
    assert "dense/x" not in header


def test_a_file_tells_nothing_of_where_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"USER": "odd-user", "LOGNAME": "odd-login", "HOME": "/odd-home", "HOSTNAME": "odd-host"}
    for key, word in words.items():
        monkeypatch.setenv(key, word)
    monkeypatch.setattr(socket, "gethostname", lambda: "odd-host")
    base = small_llama(tied=True)
    folders = save_model(base, tmp_path / "base"), save_model(nudged(base), tmp_path / "tuned")
    data = patch_bytes(cut(*folders, with_base_values=True))
    assert b'\\"name\\":\\"base\\"' in data
    for word in (str(tmp_path), str(ROOT), *words.values()):
        assert word.encode() not in data


def test_a_mask_file_holds_the_region_alone(tmp_path: Path) -> None:
    mask = sample_patch().mask
    save_patch(mask, tmp_path / "mask", provenance=Provenance(base=BaseIdentity(n_parameters=10**6)))
    header, meta, _ = split_file((tmp_path / "mask").read_bytes())
    assert set(header) == {"gaps", "bits"}
    assert meta["kind"] == "mask"
    assert all(row[6:] == [None, None] for row in meta["tensors"])
    assert load_mask(tmp_path / "mask") == mask
    with pytest.raises(PatchFormatError, match="holds no values"):
        load_patch(tmp_path / "mask")


def test_a_full_mask_takes_no_bytes_at_any_size(tmp_path: Path) -> None:
    full = Mask.full({"a": TensorSpec("BF16", (300, 400)), "b": TensorSpec("F32", ())})
    save_patch(full, tmp_path / "mask")
    assert split_file((tmp_path / "mask").read_bytes())[::2] == ({}, b"")
    assert load_mask(tmp_path / "mask") == full


def rewritten(patch: Patch, **changes: Any) -> bytes:
    header, meta, payload = split_file(patch_bytes(patch))
    return join_file(header, {**meta, **changes}, payload)


def test_readers_ignore_unknown_keys_and_need_no_canonical_text(tmp_path: Path) -> None:
    patch = sample_patch()
    (tmp_path / "p").write_bytes(rewritten(patch, zebra={"deep": [1, None]}, Format=2))
    assert equal_patches(load_patch(tmp_path / "p"), patch)


@pytest.mark.parametrize("version", [0, 2, 1.0, True, "1", None, [1]])
def test_other_formats_are_refused(version: object, tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(rewritten(sample_patch(), format=version))
    with pytest.raises(PatchFormatError, match="format"):
        load_patch(tmp_path / "p")


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    save_patch(sample_patch(), tmp_path / "p")
    other = make_patch(BASE, {"a": {3: 7.5}})
    with pytest.raises(OutputError, match="exists already"):
        save_patch(other, tmp_path / "p")
    assert equal_patches(load_patch(tmp_path / "p"), sample_patch())
    save_patch(other, tmp_path / "p", force=True)
    assert equal_patches(load_patch(tmp_path / "p"), other)
    assert os.listdir(tmp_path) == ["p"]  # noqa: PTH208


def test_what_could_not_be_loaded_is_not_saved() -> None:
    good = make_patch(BASE, {"a": {3: 7.5}})
    mask, prints = good.mask, good.base_prints
    assert len(Patch(mask, {"a": torch.tensor([7.5])}, prints)) == 1
    for values in ({}, {"a": torch.tensor([7.5, 1.0])}, {"a": torch.tensor([7.5]).half()}, {"a": torch.tensor([7])}):
        with pytest.raises(PatchError, match=r"'a'.*1 entries of F32"):
            Patch(mask, values, prints)
    for value in (float("nan"), float("inf")):
        with pytest.raises(PatchError, match=r"'a'.*NaN or infinite"):
            Patch(mask, {"a": torch.tensor([value])}, prints)
    with pytest.raises(PatchError, match=r"'a'.*entries of F32"):
        Patch(mask, good.values, prints, base_values={})
    with pytest.raises(PatchError, match=r"'a'.*print"):
        Patch(mask, good.values, {})
    with pytest.raises(BudgetError, match="at least one"):
        Patch(mask - mask, {}, {})
    with pytest.raises(PatchError, match="cannot be stored"):
        patch_bytes(make_patch(BASE, {"a": {3: 7.5}}, provenance=Provenance(metrics={"ece": float("nan")})))
