"""A live PeftModel as a checkpoint: its base with the active adapter merged, while the model stays as it is.

Where its adapters are disabled, as within PEFT's `disable_adapter()`, it answers as its base does, and is its base.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from graft.errors import CheckpointError
from graft.sources.adapter_model import merge_adapter
from graft.sources.adapters.peft_adapter import Adapter
from graft.sources.live_model import open_live
from graft.sources.made_checkpoint import MadeCheckpoint
from graft.tensors.dtypes import spec_of
from graft.tensors.tensor_stream import plan_tensor

_WRAPPED = (
    "base_layer",
    "original_module",
    "token_adapter",
)  # what PEFT calls the base's own layer within its wrappers


def is_peft_model(model: Any) -> bool:
    """Return whether a live model is a PeftModel, which need not be importable here."""
    return hasattr(model, "peft_config") and callable(getattr(model, "get_base_model", None))


def open_live_adapter(model: Any, tokenizer: Any = None) -> MadeCheckpoint:
    """Open a PeftModel merged, as its saved adapter would be; or its base, where its adapters are disabled.

    Raises:
        CheckpointError: several adapters are active, one is merged already or scaled by hand, only some layers have it
            disabled, or it is of a kind that is not known here.
    """
    name = _active(model)
    inner = model.get_base_model()
    base = open_live(inner, tokenizer, _state_of_base(inner))
    if _is_disabled(model):
        return base
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    config = json.loads(json.dumps(model.peft_config[name].to_dict(), default=list))
    tensors = {key: plan_tensor(tensor.detach().cpu().contiguous()) for key, tensor in state.items()}
    adapter = Adapter(f"the live adapter {name!r}", config, MadeCheckpoint(Path(name), tensors))
    merged = merge_adapter(adapter, base)  # which refuses kinds that are not known here
    _refuse_scaled(model, name)
    return merged


def _active(model: Any) -> str:
    active = list(getattr(model, "active_adapters", None) or [model.active_adapter])
    if len(active) != 1:
        raise CheckpointError(f"the live model has {len(active)} active adapters: set one (set_adapter)")
    if any(getattr(module, "merged_adapters", None) for module in model.modules()):
        raise CheckpointError("the live model's adapter is merged already: unmerge it first (unmerge_adapter)")
    return str(active[0])


def _is_disabled(model: Any) -> bool:
    enabled = model.get_model_status().enabled
    if not isinstance(enabled, bool):  # "irregular"
        raise CheckpointError(
            "the live model's adapter is disabled in some layers alone: enable it, or disable it whole"
        )
    return not enabled


def _refuse_scaled(model: Any, name: str) -> None:
    """Refuse an adapter whose scale is another than its config gives: a saved one could not say so."""
    for path, layer in model.named_modules():
        scales = getattr(layer, "scaling", None)  # of attention a number, of an adapted layer a table
        if not isinstance(scales, Mapping) or name not in scales:
            continue
        own = 1.0  # of SHiRA
        if hasattr(layer, "lora_alpha"):
            rank = layer.r[name]
            own = layer.lora_alpha[name] / (math.sqrt(rank) if layer.use_rslora.get(name) else rank)
        if not math.isclose(scales[name], own):
            fact = f"the live model's adapter has the scale {scales[name]:g} at {path!r}, and its config gives {own:g}"
            raise CheckpointError(f"{fact}: set it back (set_scale), or merge the adapter first")


def _state_of_base(inner: Any) -> Mapping[str, torch.Tensor]:
    """Return the base's own tensors by the names that it has without an adapter."""
    with torch.device("meta"):
        plain = type(inner)(copy.deepcopy(inner.config)).state_dict()
    state: dict[str, torch.Tensor] = {}
    for name, tensor in inner.state_dict().items():
        own = ".".join(part for part in name.split(".") if part not in _WRAPPED)
        if own in plain and spec_of(plain[own]).shape == spec_of(tensor).shape:
            state[own] = tensor
    lacking = sorted(plain.keys() - state.keys())
    if lacking:
        fact = f"the live model's base lacks the tensor {lacking[0]!r}"
        raise CheckpointError(f"{fact}: save the adapter, and name its folder")
    return state
