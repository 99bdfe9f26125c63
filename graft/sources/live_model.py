"""A live model as a checkpoint: the tensors that `save_pretrained` would write, by the names that it would give them.

Nothing of the model is changed, and no second copy is held: each tensor is copied to the CPU when it is read.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from graft.errors import CheckpointError
from graft.files.header import quote
from graft.files.location import locate_here
from graft.sources.made_checkpoint import MadeCheckpoint, link_tokenizer, make_folder
from graft.tensors.dtypes import DTYPE_NAMES, spec_of
from graft.tensors.packed import list_as_saved
from graft.tensors.shards import is_distributed
from graft.tensors.tensor_stream import Planned


def open_live(model: Any, tokenizer: Any = None, state: Mapping[str, torch.Tensor] | None = None) -> MadeCheckpoint:
    """Open a live model without adapters.

    Args:
        model: a model of transformers, or any other module, whose names are then those of its state dict.
        tokenizer: its tokenizer; where absent, that of the folder which the model was loaded from, if it is here.
        state: its state by the names of the model without wrappers; that of its state dict where absent.

    Raises:
        CheckpointError: a tensor has no plain values: on the meta device, quantized, or sharded; it is named.
    """
    tensors = _list_tensors(model, dict(model.state_dict()) if state is None else dict(state))
    for name, tensor in tensors.items():
        _refuse_unreadable(name, tensor)
    config = _config_of(model)
    path = make_folder(_name_of(model), config)
    if tokenizer is not None:
        tokenizer.save_pretrained(path)
    elif (origin := _origin_of(model)) is not None:
        link_tokenizer(origin, path)
    checkpoint = MadeCheckpoint(path, {name: _plan(tensor) for name, tensor in tensors.items()})
    checkpoint.owns_folder()
    return checkpoint


def unwrap_parallel(model: Any) -> Any:
    """Return the model within data-parallel and compiled wrappers."""
    children = dict(model.named_children())
    inner = children.get("_orig_mod", children.get("module"))  # a compiled model has all attributes of the one in it
    is_wrapper = inner is not None and (len(children) == 1 or "_orig_mod" in children)
    return unwrap_parallel(inner) if is_wrapper else model


def _list_tensors(model: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if getattr(model, "hf_quantizer", None) is not None:
        raise CheckpointError(f"{_name_of(model)}: quantized; use the unquantized model that it was made from")
    if getattr(model, "_hf_peft_config_loaded", False):
        raise CheckpointError(
            f"{_name_of(model)}: adapters were added by transformers; make a PeftModel of it, or save the adapter"
        )
    if not _is_of_transformers(model):
        first = {(tensor.data_ptr(), tensor.shape, tensor.stride()): name for name, tensor in reversed(state.items())}
        return {name: state[name] for name in first.values()}
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    for name in model._keys_to_ignore_on_save or ():
        state.pop(name, None)
    return list_as_saved(model, remove_tied_weights_from_state_dict(state, model))


def _is_of_transformers(model: Any) -> bool:
    from transformers import PreTrainedModel

    return isinstance(model, PreTrainedModel)


def _refuse_unreadable(name: str, tensor: torch.Tensor) -> None:
    if tensor.is_meta:
        raise CheckpointError(f"tensor {quote(name)} is on the meta device: load the model's weights first")
    if is_distributed(tensor):
        raise CheckpointError(f"tensor {quote(name)} is sharded over processes: save the model, and name its folder")
    if tensor.dtype not in DTYPE_NAMES or tensor.layout is not torch.strided or hasattr(tensor, "__tensor_flatten__"):
        raise CheckpointError(f"tensor {quote(name)} is {type(tensor).__name__} of {tensor.dtype}: no plain values")


def _plan(tensor: torch.Tensor) -> Planned:
    return Planned(spec_of(tensor), partial(_copy, tensor))


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _config_of(model: Any) -> dict[str, Any]:
    """Return what `save_pretrained` writes into config.json; {} for a model that is not of transformers."""
    if not _is_of_transformers(model):
        return {}
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = str(model.dtype).removeprefix("torch.")
    import json

    return dict(json.loads(config.to_json_string(use_diff=True)))


def _name_of(model: Any) -> str:
    named = Path(getattr(getattr(model, "config", None), "_name_or_path", "") or "").name
    return named or type(model).__name__


def _origin_of(model: Any) -> Path | None:
    named = getattr(getattr(model, "config", None), "_name_or_path", "")
    here = locate_here(named) if named else None
    return here.path if here is not None else None
