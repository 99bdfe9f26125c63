"""The architecture that a config.json names, without loading one weight.

The model is built on torch's meta device, which costs milliseconds and no memory at any size.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from graft.files.inputs import open_input
from graft.files.model_config import read_model_config, refuse_oversized
from graft.tensors.names import NameMap
from graft.tensors.packed import Packing, follow_packing
from graft.tensors.tied_names import TiedNames

# What files of earlier versions list: causal masks and rotary tables, which models now make by themselves.
_LEGACY = (
    r"(^|\.)(attn|attention|self_attn|crossattention)\.(bias|masked_bias)$|rotary_emb\.|inv_freq$|(^|\.)position_ids$"
)
# What files may lack: a counter of steps; and, of a bare encoder, the pooler, which is saved only where it was tuned.
_OPTIONAL = (r"num_batches_tracked$", r"(^|\.)pooler\.")
# Buffers by name, for files whose config.json is absent or unknown to transformers.
_BUFFER_NAMES = re.compile(r"(^|\.)(running_mean|running_var|num_batches_tracked|position_ids|inv_freq)$")


@dataclass(frozen=True)
class Architecture:
    """Names as the live model knows them.

    Attributes:
        name_map: its base_model_prefix, and transformers' own renaming of checkpoint names on loading.
        buffers: names of buffers.
        tied: groups of names that share one storage.
        state: names that a checkpoint of it must bring, in the model's own layout: parameters and persistent buffers.
        packing: how its files name what it holds packed.
        optional: names that transformers makes by itself where the files lack them.
        legacy: names that files of it may hold and no model uses, such as buffers of earlier versions.
    """

    name_map: NameMap
    buffers: frozenset[str]
    tied: TiedNames
    state: frozenset[str]
    packing: Packing
    optional: re.Pattern[str]
    legacy: re.Pattern[str]


def read_architecture(folder: Path) -> Architecture | None:
    """Read the architecture of a model folder; None without a config.json of one that transformers knows.

    It follows from what config.json holds, and is built once in a process for each such content.

    Raises:
        CheckpointError: as `refuse_oversized`.
    """
    try:
        with open_input(folder / "config.json") as file:
            return _architecture_for(file.read(), folder)
    except (OSError, _UnknownArchitecture):
        return None


class _UnknownArchitecture(Exception):
    """Raised where no model can be built, so that this is not cached: a library may learn of more architectures."""


@lru_cache(maxsize=4)
def _architecture_for(config: bytes, folder: Path) -> Architecture:
    """Build the architecture; `config` holds the folder's config.json, so that a changed file is another cache key."""
    model = build_on_meta(folder)
    if model is None:
        raise _UnknownArchitecture
    return architecture_of(model)


def build_on_meta(folder: Path) -> torch.nn.Module | None:
    """Return the model of a folder's config.json without weights; None where transformers cannot build one.

    Raises:
        CheckpointError: as `refuse_oversized`.
    """
    refuse_oversized(folder)
    if not (folder / "config.json").is_file():
        return None
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model: torch.nn.Module = _model_class(config)(config)
    except Exception:  # remote code, a newer architecture, a config that no model can be built from
        return None  # names are taken as they stand
    return model


def architecture_of(model: torch.nn.Module) -> Architecture:
    """Return the architecture of a live model, of transformers or any other."""
    inner = unwrap_model(model)
    state = _state_of(inner)
    return Architecture(
        name_map=NameMap(getattr(inner, "base_model_prefix", ""), _renaming(inner)),
        buffers=frozenset(name for name, _ in model.named_buffers()),
        tied=_tied_groups(model),
        state=frozenset(state),
        packing=follow_packing(inner, state),
        optional=_any_of(*_ignored_patterns(inner, "missing"), *_OPTIONAL[: 2 if _is_bare(inner) else 1]),
        legacy=_any_of(*_ignored_patterns(inner, "unexpected"), _LEGACY),
    )


def _is_bare(model: torch.nn.Module) -> bool:
    """Return whether a model has no head beside its backbone."""
    return not hasattr(model, getattr(model, "base_model_prefix", "") or "base_model_prefix")


def _state_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return parameters and persistent buffers by name, without the hooks that a state dict may run."""
    state: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    for path, module in model.named_modules(remove_duplicate=False):
        lasting = module._buffers.keys() - module._non_persistent_buffers_set
        state |= {f"{path}.{name}" if path else name: b for name in lasting if (b := module._buffers[name]) is not None}
    return state


def _ignored_patterns(model: torch.nn.Module, kind: str) -> list[str]:
    """Return the patterns of names that transformers does not report as "missing" or "unexpected" for this model."""
    return sorted(getattr(model, f"_keys_to_ignore_on_load_{kind}", None) or ())


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns))


def name_map_of(*architectures: Architecture | None) -> NameMap:
    """Join the name maps of architectures: the first prefix that one declares, and the renaming of the first."""
    known = [item.name_map for item in architectures if item is not None]
    prefix = next((item.prefix for item in known if item.prefix), "")
    return NameMap(prefix, known[0].rename) if known else NameMap()


def is_buffer_name(name: str) -> bool:
    """Return whether a name is, by convention, a buffer's: batch-norm statistics, position counters."""
    return _BUFFER_NAMES.search(name) is not None


def quantization_of(folder: Path) -> str | None:
    """Return the name of the quantization that a model folder's config.json declares, or None."""
    declared = read_model_config(folder).get("quantization_config")
    return str(declared.get("quant_method", "unknown")) if isinstance(declared, dict) else None


def _model_class(config: Any) -> Any:
    """Return the model that a config names; what else transformers has by a stranger's name is never called."""
    import transformers

    for name in config.architectures or ():
        named = getattr(transformers, name, None)  # None of a class of somebody's own, around a model that is known
        if isinstance(named, type) and issubclass(named, transformers.PreTrainedModel):
            return named
    return transformers.MODEL_MAPPING[type(config)]


def unwrap_model(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model within data-parallel, compiled and PEFT wrappers, which need not show its attributes."""
    if callable(peft := getattr(model, "get_base_model", None)) and hasattr(model, "peft_config"):
        return unwrap_model(peft())
    inner = getattr(model, "module", getattr(model, "_orig_mod", None))
    if isinstance(inner, torch.nn.Module) and not hasattr(model, "base_model_prefix"):
        return unwrap_model(inner)
    return model


def _tied_groups(model: torch.nn.Module) -> TiedNames:
    """Return the groups of tied names, by shared Parameter and, for a model still on meta, by transformers' table."""
    groups: dict[object, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), set()).add(name)
    sets = [group for group in groups.values() if len(group) > 1]
    for target, source in getattr(model, "all_tied_weights_keys", {}).items():
        joined = {target, source}.union(*(group for group in sets if group & {target, source}))
        sets = [group for group in sets if not group & joined] + [joined]
    return TiedNames.of(sorted(sets, key=sorted))


def _renaming(model: torch.nn.Module) -> Callable[[str], str]:
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming, rename_source_key

        transforms = get_model_conversion_mapping(model)
    except (ImportError, AttributeError):  # not a transformers model
        return str
    renamings = [transform for transform in transforms if type(transform) is WeightRenaming]
    return lambda name: str(rename_source_key(name, renamings, [])[0])
