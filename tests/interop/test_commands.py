"""`graft export` and `graft import` on the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from graft_cli.entry import main

from graft.interop.registry import EXPORT_FORMATS, IMPORT_FORMATS, ImportFormat
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from graft.tensors.dtypes import as_bits
from tests.checkpoints import sample_tensors, write_single
from tests.interop.bases import is_linear, llama_pair, stored_patch


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return left.value.code, *capsys.readouterr()


def test_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, tuned = llama_pair(tmp_path, torch.float32, where=is_linear)
    patch = stored_patch(base, tuned)
    save_patch(patch, tmp_path / "skill")
    export = ("export", tmp_path / "skill", "--to", "shira", "--base", base, "-o", tmp_path / "adapter")
    code, out, err = run(capsys, *export, "--json")
    told = json.loads(out)
    assert (code, err) == (0, "")
    assert told.keys() == {"output", "to", "k", "dense", "skipped", "missed", "largest_miss", "lost_signs"}
    assert told["k"] == len(patch)
    code, out, err = run(capsys, *export, "--force")
    assert code == 0
    assert f"{told['missed']:,} of {len(patch):,} values are out of reach, by at most" in out
    assert out.endswith(f"wrote {tmp_path / 'adapter'} with {len(patch):,} entries\n")
    code, out, err = run(capsys, *export)
    assert (code, out) == (1, "")
    assert "exists already" in err
    code, out, err = run(capsys, *export, "--force", "--strict")
    assert (code, out) == (1, "")
    assert "no difference reaches" in err
    again = ("import", tmp_path / "adapter", "--from", "shira", "--base", base, "-o", tmp_path / "again")
    code, out, err = run(capsys, *again, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["k"] == len(patch)
    back = load_patch(tmp_path / "again")
    assert back.mask == patch.mask
    off = sum(int((as_bits(back.values[name]) != as_bits(patch.values[name])).sum()) for name in patch.mask)
    assert off == told["missed"] > 0


def test_an_import_reads_once_and_says_what_rounding_alone_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, files = ImportFormat.read, list[Path]()
    monkeypatch.setattr(ImportFormat, "read", lambda self, file, base: files.append(file) or read(self, file, base))
    before = sample_tensors()
    after = before | {"layers.0.w": before["layers.0.w"] + 1}
    base, same = write_single(tmp_path / "base", before), write_single(tmp_path / "same", after)
    other = write_single(tmp_path / "other", {name: tensor.half() for name, tensor in after.items()})
    command = ("import", same, "--from", "dense", "--base", base, "-o", tmp_path / "skill", "--force")
    assert run(capsys, *command)[2] == ""
    assert files == [same]
    command = ("import", other, *command[2:])
    for budget, fate in (((), "kept, so that applying gives the tuned bits"), (("--budget", 5), "taken as not moved")):
        code, out, err = run(capsys, *command, *budget, "--json")
        told = json.loads(out)
        assert (code, told["notes"]) == (0, [err.removeprefix("note: ").strip()])
        assert re.fullmatch(rf"note: the base is F32, the tuned checkpoint F16: .*{fate}\n", err)
        assert told["rounded"] > 0


def test_what_is_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, tuned = llama_pair(tmp_path, torch.float32, share=0.3)
    save_patch(stored_patch(base, tuned), tmp_path / "skill")
    export = ("export", tmp_path / "skill", "--to", "shira", "--base", base, "-o", tmp_path / "adapter")
    code, _, err = run(capsys, *export)
    assert code == 1
    assert err.endswith("--skip-unsupported leaves such tensors out\n")
    assert len(err.splitlines()) == 1
    code, out, _ = run(capsys, *export, "--skip-unsupported")
    assert code == 0
    assert "skipped model.embed_tokens.weight: not the weight of a linear layer of its own\n" in out


def test_the_commands_offer_what_the_tables_hold(capsys: pytest.CaptureFixture[str]) -> None:
    for command, names in (("export", EXPORT_FORMATS), ("import", IMPORT_FORMATS)):
        code, out, _ = run(capsys, command, "--help")
        assert code == 0
        assert f"[{'|'.join(names)}]" in out
