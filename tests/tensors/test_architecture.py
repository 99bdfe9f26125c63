"""The class that a stranger's config.json names is built only if it is a model of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from graft.tensors.architecture import read_architecture
from tests.checkpoints import save_model, small_classifier


@pytest.mark.parametrize("trap", ["a function", "a class"])
def test_what_is_no_model_is_never_called(trap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []

    class Trap:
        def __init__(self, config: Any) -> None:
            called.append(config)

    monkeypatch.setattr(transformers, "Trap", called.append if trap == "a function" else Trap, raising=False)
    folder = save_model(small_classifier(), tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())

    def state_for(*names: str) -> frozenset[str] | None:
        (folder / "config.json").write_text(json.dumps({**config, "architectures": names}))
        architecture = read_architecture(folder)
        return None if architecture is None else architecture.state

    bare, head = state_for("OfSomebodysOwn"), state_for("BertForSequenceClassification")
    assert bare is not None
    assert head is not None
    assert "classifier.weight" in head - bare
    assert state_for("Trap") == bare
    assert state_for("Trap", "BertForSequenceClassification") == head
    assert not called


@pytest.mark.parametrize("name", ["set_seed", "BertConfig", "AutoModel", "models", "__version__"])
def test_names_that_transformers_gives_to_other_things_are_unknown_ones(name: str, tmp_path: Path) -> None:
    assert hasattr(transformers, name)
    folder = save_model(small_classifier(), tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [name]}))
    architecture = read_architecture(folder)
    assert architecture is not None
    assert "embeddings.word_embeddings.weight" in architecture.state
