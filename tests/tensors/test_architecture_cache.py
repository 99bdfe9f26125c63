"""An architecture is built once for each content of config.json: never again for the same, always for another."""

from __future__ import annotations

from pathlib import Path

import pytest

from graft.tensors import architecture
from graft.tensors.architecture import read_architecture
from tests.checkpoints import save_model, small_bert


def test_a_changed_config_is_another_architecture_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, built, build = save_model(small_bert(), tmp_path / "base"), [], architecture.build_on_meta
    monkeypatch.setattr(architecture, "build_on_meta", lambda path: (built.append(path), build(path))[1])
    first = read_architecture(folder)
    assert first is not None
    assert read_architecture(folder) is first
    assert len(built) == 1
    config = folder / "config.json"
    text = config.read_text(encoding="utf-8")
    layers = '"num_hidden_layers": 2'
    assert layers in text
    config.write_text(text.replace(layers, '"num_hidden_layers": 1'), encoding="utf-8")  # as long, and perhaps as old
    second = read_architecture(folder)
    assert second is not None
    assert len(second.state) < len(first.state)
    config.unlink()
    assert read_architecture(folder) is None
    config.write_text(text, encoding="utf-8")
    again = read_architecture(folder)
    assert again is not None
    assert again.state == first.state


def test_what_no_library_knows_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_model(small_bert(), tmp_path / "base")
    monkeypatch.setattr(architecture, "build_on_meta", lambda _: None)
    (folder / "config.json").write_text('{"model_type": "of tomorrow"}', encoding="utf-8")
    assert read_architecture(folder) is None
    monkeypatch.setattr(architecture, "build_on_meta", lambda _: small_bert())
    assert read_architecture(folder) is not None
