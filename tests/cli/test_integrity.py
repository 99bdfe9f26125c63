"""What inspect and verify say of a file's hashes, and what every reader says of a damaged one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from graft.patch.format.integrity import AGREE, UNSEALED
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from graft.train.importance.consolidation import consolidate
from graft.train.importance.consolidation_file import save_consolidation
from tests.checkpoints import join_file, sample_tensors, split_file
from tests.cli.conftest import Cli


@pytest.fixture
def older(skill: Path, tmp_path: Path) -> Path:
    """The skill as a version without hashes wrote it."""
    header, meta, payload = split_file(skill.read_bytes())
    plain = {key: value for key, value in meta.items() if key not in ("content", "table")}
    (tmp_path / "older.safetensors").write_bytes(join_file(header, plain, payload))
    return tmp_path / "older.safetensors"


def test_inspect_and_verify_say_whether_there_are_hashes(base: Path, skill: Path, older: Path, cli: Cli) -> None:
    assert json.loads(cli("inspect", skill, "--json").out)["integrity"] == AGREE
    assert json.loads(cli("inspect", older, "--json").out)["integrity"] == UNSEALED
    assert UNSEALED in cli("inspect", older).out
    assert "integrity" not in json.loads(cli("verify", skill, "--base", base, "--json").out)
    said = json.loads(cli("verify", older, "--base", base, "--json").out)
    assert (said["fits"], said["integrity"]) == (True, UNSEALED)
    lines = cli("verify", older, "--base", base).out.splitlines()
    assert lines[0] == "fits"
    assert UNSEALED in lines[1]


def test_an_older_file_is_applied_as_ever(base: Path, older: Path, tmp_path: Path, cli: Cli) -> None:
    done = cli("apply", base, older, "-o", tmp_path / "merged")
    assert (done.code, "older" in done.err) == (0, False)


def test_a_damaged_file_is_refused_by_every_command(
    base: Path, tuned: Path, skill: Path, tmp_path: Path, cli: Cli
) -> None:
    header, meta, payload = split_file(skill.read_bytes())
    place = header["values.F32"]["data_offsets"][0]
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(
        join_file(header, meta, payload[:place] + bytes([payload[place] ^ 1]) + payload[place + 1 :], seal=False)
    )
    out = tmp_path / "out"
    for asked in (
        ["inspect", bad],
        ["verify", bad, "--base", base],
        ["apply", base, bad, "-o", out],
        ["compose", bad, skill, "-o", out],
        ["exclude", skill, "--without", bad, "-o", out],
        ["exclude", tuned, "--without", bad, "--base", base, "-o", out],
        ["overlap", skill, bad, "-o", out],
        ["export", bad, "--to", "vllm", "-o", out],
        ["push", bad, "someone/patch", "--dry-run"],
    ):
        done = cli(*asked)
        assert done.code == 1
        assert "'values.F32': its bytes do not match their hash" in done.err
        assert not out.exists()


def test_a_file_of_importance_is_shown(tmp_path: Path, cli: Cli) -> None:
    tensors = sample_tensors()
    scores = {name: tensor.abs().flatten().clone for name, tensor in tensors.items()}
    save_consolidation(consolidate(scores, tensors, 1.0, "|w|"), tmp_path / "held")
    shown = json.loads(cli("inspect", tmp_path / "held", "--json").out)
    assert (shown["kind"], shown["integrity"], shown["k"]) == (
        "importance",
        AGREE,
        sum(map(torch.numel, tensors.values())),
    )
    assert AGREE in cli("inspect", tmp_path / "held").out
    data = bytearray((tmp_path / "held").read_bytes())
    data[-1] ^= 4
    (tmp_path / "held").write_bytes(data)
    assert "do not match their hash" in cli("inspect", tmp_path / "held").err


def test_a_mask_is_sealed_too(skill: Path, tmp_path: Path, cli: Cli) -> None:
    save_patch(load_patch(skill).mask, tmp_path / "mask")
    assert json.loads(cli("inspect", tmp_path / "mask", "--json").out)["integrity"] == AGREE
