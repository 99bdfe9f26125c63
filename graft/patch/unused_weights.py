"""Weights of a base's head that a merged model does not use, such as a language model's output layer."""

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
    """Find tensors outside layers and embeddings that the folder's architecture lacks; none where it is unknown."""
    model = build_on_meta(folder)
    if model is None:
        return ()
    architecture, own_names = architecture_of(model), set(model.state_dict(keep_vars=True))
    prefix = f"{architecture.name_map.prefix}." if architecture.name_map.prefix else ""

    def is_used(name: str) -> bool:
        return bool({name, prefix + name, name.removeprefix(prefix)} & own_names)

    heads = (name for name in names if kind_of(name) == "heads")
    return tuple(sorted(name for name in heads if not (is_used(name) or is_used(architecture.name_map.rename(name)))))


def drop_tensors(folder: Path, names: Collection[str]) -> None:
    """Remove tensors from a folder's shards and index; the others keep their bytes."""
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
    remaining = {name: stored.spec for name, stored in header.tensors.items() if name not in names}
    if not remaining:
        file.unlink()
        return
    with safe_open(file, framework="pt") as source:
        planned = {name: Planned(spec, partial(source.get_tensor, name)) for name, spec in remaining.items()}
        write_tensors(file.with_suffix(".part"), planned, header.metadata)
    file.with_suffix(".part").replace(file)
