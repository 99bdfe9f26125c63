"""Heads of a base that a merged model has no use for: a language model's output layer in a classifier."""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import partial
from pathlib import Path

from graft.files.header import read_header
from graft.files.weight_index import INDEX
from graft.tensors.architecture import architecture_of, build_on_meta
from graft.tensors.scope import kind_of
from graft.tensors.tensor_stream import Planned, write_tensors


def find_unused(folder: Path, names: Collection[str]) -> tuple[str, ...]:
    """Tensors outside layers and embeddings that the folder's architecture does not hold; none where it is unknown."""
    model = build_on_meta(folder)
    if model is None:
        return ()
    known, held = architecture_of(model), set(model.state_dict(keep_vars=True))
    start = f"{known.prefix}." if known.prefix else ""

    def is_held(name: str) -> bool:
        return bool({name, start + name, name.removeprefix(start)} & held)

    heads = (name for name in names if kind_of(name) == "heads")
    return tuple(sorted(name for name in heads if not (is_held(name) or is_held(known.rename(name)))))


def drop_tensors(folder: Path, names: Collection[str]) -> None:
    """Take tensors out of a folder's shards and index; what stays keeps its bytes."""
    if not names or not (folder / INDEX).is_file():
        return
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    shards = index["weight_map"]
    for shard in {shards[name] for name in names}:
        _rewrite_without(folder / shard, names)
    index["weight_map"] = {name: shard for name, shard in shards.items() if name not in names}
    sizes = ((folder / shard).stat().st_size for shard in set(index["weight_map"].values()))
    index["metadata"] = {**index.get("metadata", {}), "total_size": sum(sizes)}
    (folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _rewrite_without(file: Path, names: Collection[str]) -> None:
    from safetensors import safe_open

    header = read_header(file)
    kept = {name: stored.spec for name, stored in header.tensors.items() if name not in names}
    if not kept:
        file.unlink()
        return
    with safe_open(file, framework="pt") as source:
        planned = {name: Planned(spec, partial(source.get_tensor, name)) for name, spec in kept.items()}
        write_tensors(file.with_suffix(".part"), planned, header.metadata)
    file.with_suffix(".part").replace(file)
