"""A format is one file and one row: choices, help, refusals and what is written come from the row."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from graft_cli.entry import main

from graft.errors import ConfigError
from graft.interop.exporting import export_patch
from graft.interop.importing import import_patch
from graft.interop.registry import EXPORT_FORMATS, IMPORT_FORMATS, ExportFormat, ImportFormat
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from graft.registry import load_target
from tests.interop.bases import is_linear, llama_pair, stored_patch

TOY = "tests.interop.toy_format"
EXPORT = ExportFormat(
    name="toy", help="a toy that holds numbers", target=f"{TOY}:write_toy", unsupported=f"{TOY}:find_unsupported"
)
IMPORT = ImportFormat(name="toy", help="a toy that is read", target=f"{TOY}:read_toy")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return left.value.code, *capsys.readouterr()


def test_every_row_names_functions_that_are_there() -> None:
    for row in (*EXPORT_FORMATS.values(), *IMPORT_FORMATS.values()):
        assert callable(row.load())
    assert all(callable(load_target(row.unsupported)) for row in EXPORT_FORMATS.values() if row.unsupported)
    assert {row.needs for row in EXPORT_FORMATS.values()} == {
        "nothing",
        "the base",
        "the base, or a patch that stores base values",
    }


def test_a_row_is_a_choice_with_its_help_and_writes_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, tuned = llama_pair(tmp_path, torch.float32, where=is_linear)
    patch = stored_patch(base, tuned)
    save_patch(patch, tmp_path / "skill")
    export = ("export", tmp_path / "skill", "--to", "toy", "-o", tmp_path / "toy.json")
    code, _, err = run(capsys, *export)
    assert code == 2
    assert "'toy' is not one of 'lora', 'shira', 'vllm', 'task-vector', 'state-dict'" in err
    with EXPORT_FORMATS.extended(EXPORT), IMPORT_FORMATS.extended(IMPORT):
        for command, line in (("export", EXPORT.help), ("import", IMPORT.help)):
            _, out, _ = run(capsys, command, "--help")
            assert "|toy]" in out
            assert f"toy: {line}." in " ".join(out.split())
        code, out, err = run(capsys, *export)
        assert (code, err) == (0, "")
        assert (tmp_path / "toy.json").stat().st_size
        again = ("import", tmp_path / "toy.json", "--from", "toy", "--base", base, "-o", tmp_path / "again")
        assert run(capsys, *again)[0] == 0
    back = load_patch(tmp_path / "again")
    assert back.mask == patch.mask
    assert all(torch.equal(back.values[name], patch.values[name]) for name in patch.mask)


def test_what_a_row_cannot_hold_or_lacks_is_refused_in_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, tuned = llama_pair(tmp_path, torch.float32, share=0.3)
    patch = stored_patch(base, tuned)
    save_patch(patch, tmp_path / "skill")
    export = ("export", tmp_path / "skill", "--to", "toy", "-o", tmp_path / "toy.json")
    with EXPORT_FORMATS.extended(EXPORT):
        code, _, err = run(capsys, *export)
        assert code == 1
        assert "toy cannot hold tensor 'model.embed_tokens.weight': toys have no embeddings" in err
        code, out, _ = run(capsys, *export, "--skip-unsupported")
        assert code == 0
        assert "skipped model.embed_tokens.weight: toys have no embeddings" in out
    with_base = ExportFormat(name="toy", help="the same", target=f"{TOY}:write_toy", needs_base=True)
    with EXPORT_FORMATS.extended(with_base):
        code, _, err = run(capsys, *export, "--force")
        assert code == 1
        assert "toy needs the base's values, which the patch does not store: pass --base MODEL" in err


def test_an_unknown_format_is_refused_with_all_that_there_are(tmp_path: Path) -> None:
    base, tuned = llama_pair(tmp_path, torch.float32, where=is_linear)
    with pytest.raises(ConfigError, match="'toy' is not a format to export to; choose from lora, shira, vllm"):
        export_patch(stored_patch(base, tuned), "toy", tmp_path / "out")
    with pytest.raises(ConfigError, match="'toy' is not a format to import from; choose from shira, composable-sft"):
        import_patch(tmp_path / "file", "toy", str(base))
