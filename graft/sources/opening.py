"""Models as people hold them: folders, Hub ids, adapters on their base, and live models, opened one way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from graft.errors import ConfigError
from graft.files.location import Located, locate
from graft.sources.adapter_base import check_base, find_base
from graft.sources.adapter_model import merge_adapter
from graft.sources.adapters.peft_adapter import is_adapter, open_adapter
from graft.sources.live_adapter import is_peft_model, open_live_adapter
from graft.sources.live_model import open_live, unwrap_parallel
from graft.sources.made_checkpoint import MadeCheckpoint
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.pair import CheckpointPair

Model = str | Path | torch.nn.Module  # a path, a Hub id, an adapter's folder, or a live model


@dataclass(frozen=True, eq=False)
class OpenModel:
    """A model whose tensors can be read.

    Attributes:
        located: its name, its Hub id, and the folder with its config and tokenizer.
        checkpoint: its tensors.
        base: of an adapter; None for every other model.
    """

    located: Located
    checkpoint: Checkpoint
    base: OpenModel | None = None


def open_model(model: Model | OpenModel, *, base: Model | OpenModel | None = None, tokenizer: Any = None) -> OpenModel:
    """Open a model, reading headers alone.

    Args:
        model: a local folder or file, the embedded encoder, a Hub id, an adapter's folder or Hub id, or a live model,
            in the wrappers of PEFT, data parallelism and compilation too.
        base: of an adapter; the base that its config names where absent. Other models have none, and ignore it.
        tokenizer: of a live model; where absent, that of the folder which it was loaded from.

    Raises:
        CheckpointError: it cannot be read.
        MismatchError: an adapter belongs to another base.
    """
    if isinstance(model, OpenModel):
        return model
    if isinstance(model, torch.nn.Module):
        live = unwrap_parallel(model)
        checkpoint = open_live_adapter(live, tokenizer) if is_peft_model(live) else open_live(live, tokenizer)
        return OpenModel(Located(checkpoint.path, checkpoint.path.name), checkpoint)
    located = locate(model)
    if not is_adapter(located.path):
        return OpenModel(located, Checkpoint.open(located.path))
    merged, opened = _open_adapter(located.path, base)
    return OpenModel(Located(merged.path, located.name, located.id, located.revision), merged, opened)


def refuse_idle_base(base: Model | None, *models: OpenModel) -> None:
    """Refuse a base where no model is an adapter.

    Raises:
        ConfigError: saying so.
    """
    if base is not None and all(model.base is None for model in models):
        raise ConfigError(f"{models[0].located.name}: no adapter, and so has no base of its own (--base)")


def open_pair(base: Model | OpenModel, tuned: Model, *, tokenizer: Any = None) -> CheckpointPair:
    """Open and match a base and a tuned model, which may be an adapter of that base.

    Raises:
        CheckpointError, MismatchError: as `open_model` and `CheckpointPair.open`.
    """
    opened = open_model(base, tokenizer=tokenizer)
    return CheckpointPair.open(opened.checkpoint, open_model(tuned, base=opened).checkpoint)


def open_folder(path: Path) -> Path | Checkpoint:
    """Return a model folder as it is, or an adapter's on the base that its config names.

    Raises:
        CheckpointError: as `open_model`.
    """
    return _open_adapter(path, None)[0] if is_adapter(path) else path


def refuse_idle_tokenizer(tokenizer: Any, *models: object) -> None:
    """Refuse a tokenizer where no model is live, since a folder brings its own.

    Raises:
        ConfigError: saying so.
    """
    if tokenizer is not None and not any(isinstance(model, torch.nn.Module) for model in models):
        raise ConfigError("tokenizer goes with a live model: a folder brings its own")


def _open_adapter(path: Path, base: Model | OpenModel | None) -> tuple[MadeCheckpoint, OpenModel]:
    adapter = open_adapter(path)
    opened = open_model(str(find_base(adapter).path) if base is None else base)
    note = check_base(adapter, opened.located, opened.checkpoint) if base is not None else None
    merged = merge_adapter(adapter, opened.checkpoint, path)
    merged.notes = (note,) if note else ()
    return merged, opened
