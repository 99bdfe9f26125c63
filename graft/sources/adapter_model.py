"""An adapter on its base as a checkpoint: the values that PEFT's `merge_and_unload` gives, one tensor at a time.

The config is the base's, with the class that the adapter was trained on and as many labels as its head has rows; PEFT
saves no names of labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from graft.errors import CheckpointError
from graft.files.header import quote
from graft.files.model_config import read_model_config
from graft.files.tensor_spec import TensorSpec
from graft.sources.adapters.imported_weights import Edit
from graft.sources.adapters.matching import apply_edits, match_edits
from graft.sources.adapters.peft_adapter import Adapter
from graft.sources.adapters.reading import read_adapter
from graft.sources.made_checkpoint import MadeCheckpoint, link_tokenizer, make_folder, write_config
from graft.tensors.architecture import read_architecture
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import TORCH_DTYPES
from graft.tensors.growth import declare_rows, vocabulary_rows
from graft.tensors.tensor_stream import Planned

# PEFT's task types -> transformers' table of the classes that they stand for
_TABLES = {
    "SEQ_CLS": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "TOKEN_CLS": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "QUESTION_ANS": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "CAUSAL_LM": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "SEQ_2_SEQ_LM": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "FEATURE_EXTRACTION": "MODEL_MAPPING_NAMES",
}


def merge_adapter(adapter: Adapter, base: Checkpoint, folder: Path | None = None) -> MadeCheckpoint:
    """Open an adapter merged into its base; nothing is computed before it is read.

    Args:
        adapter: the adapter.
        base: the model that it belongs to.
        folder: the adapter's own folder, with its tokenizer and config.json where there are any.

    Raises:
        CheckpointError: of a kind that is not known here, or the merged model would lack a weight.
        MismatchError: it does not belong to this base; the tensor is named.
    """
    weights = read_adapter(adapter, base)
    edits, whole = match_edits(weights, base)
    tensors = {name: Planned(base.spec(name), partial(base.read, name)) for name in base.names}
    tensors = {name: plan for name, plan in tensors.items() if name not in base.aliases}
    tensors |= {name: _plan_edit(base, name, edits[name]) for name in edits}
    tensors |= {name: _plan_whole(tensor, base.dtype) for name, tensor in whole.items()}
    config = read_model_config(folder) if folder else {}
    described = config or _with_class(read_model_config(base.path), adapter)
    path = make_folder(folder.resolve().name if folder else base.path.name, described)
    merged = MadeCheckpoint(path, tensors)
    merged.owns_folder()
    if described and not config:
        _declare_sizes(path, base, {name: plan.spec.shape for name, plan in tensors.items() if name in whole}, tensors)
    for source in (folder, base.path):
        if source is not None:
            link_tokenizer(source, path)  # an adapter's own tokenizer whole, not together with files of the base's
    merged.refuse_incomplete()
    useless = sorted(merged.left_out & {*edits, *whole})
    if useless:
        fact = f"brings {quote(useless[0])}, which the model of its config does not have"
        raise CheckpointError(f"{adapter.where}: {fact}")
    return merged


def _plan_edit(base: Checkpoint, name: str, edits: list[Edit]) -> Planned:
    spec = base.spec(name)

    def make() -> torch.Tensor:
        return apply_edits(base.read(name), name, edits).to(TORCH_DTYPES[spec.dtype])

    may_grow = bool(spec.shape) and spec.shape[0] in vocabulary_rows(base)
    return Planned(TensorSpec(spec.dtype, tuple(make().shape)) if may_grow else spec, make)


def _plan_whole(tensor: torch.Tensor, dtype: str) -> Planned:
    """Plan a head in the dtype that the whole model is loaded in."""
    return Planned(TensorSpec(dtype, tuple(tensor.shape)), lambda: tensor.to(TORCH_DTYPES[dtype]))


def _with_class(config: dict[str, Any], adapter: Adapter) -> dict[str, Any]:
    """Return a base's config with the class that the adapter's config names, where it names one."""
    from transformers.models.auto import modeling_auto

    table = getattr(modeling_auto, _TABLES.get(str(adapter.config.get("task_type")), ""), {})
    mapping = adapter.config.get("auto_mapping")
    other = mapping.get("base_model_class") if isinstance(mapping, Mapping) else None
    name = table.get(config.get("model_type"), other)
    name = name[0] if isinstance(name, tuple) else name
    return {**config, "architectures": [name]} if config and isinstance(name, str) else config


def _declare_sizes(
    folder: Path, base: Checkpoint, heads: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Planned]
) -> None:
    """Write the sizes of the merged model into its config: rows of the vocabulary, and labels of the head."""
    for name in base.names:
        rows = tensors[name].spec.shape[:1] if name in tensors else ()
        if name not in heads and rows and rows != base.spec(name).shape[:1]:
            declare_rows(folder, base.spec(name).shape[0], rows[0])
            break
    config = read_model_config(folder)
    for n in sorted({shape[0] for shape in heads.values() if len(shape) == 2}):
        if _fits(folder, heads):
            return
        labels = {f"LABEL_{row}": row for row in range(n)}
        names = {str(row): name for name, row in labels.items()}
        write_config(folder, {**config, "id2label": names, "label2id": labels})


def _fits(folder: Path, heads: Mapping[str, tuple[int, ...]]) -> bool:
    """Return whether the architecture of a config has heads of these shapes."""
    architecture = read_architecture(folder)
    if architecture is None:
        return True
    listed = architecture.packing.listed
    return all(listed[own] == heads[name] for name, own in architecture.name_map.match(heads, listed).found.items())
