"""What two skills' texts look like to the tiny base: moods has films, few meals."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoModel, AutoTokenizer

import graft
from tests.models import FILMS, MEALS, toy_rows


def write_references(shelf: Path, folder: Path) -> dict[str, Path]:
    """A file a skill."""
    embed = graft.TextEmbedder(AutoModel.from_pretrained(shelf / "base"), AutoTokenizer.from_pretrained(shelf / "base"))
    references = {}
    for name, things in {"moods": FILMS, "few": MEALS}.items():
        texts = [row["text"] for row in toy_rows(160, 3, things)]
        references[name] = folder / f"{name}.safetensors"
        graft.save_reference(graft.learn_reference(embed, texts[:90], held_out=texts[90:]), references[name])
    return references
