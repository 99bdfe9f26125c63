"""Reject DataParallel, FSDP1 and ZeRO-3, whose parameters have no stable flat index."""

from __future__ import annotations

import torch

from graft.errors import ConfigError

_INSTEAD = "use FSDP2 (torch.distributed.fsdp.fully_shard, --parallel fsdp on the command line)"


def refuse_copied(model: torch.nn.Module) -> None:
    """Refuse a model that cannot be trained or localized as one: copied at each step, or partitioned.

    Raises:
        ConfigError: naming the engine, and what to use instead.
    """
    if isinstance(model, torch.nn.DataParallel):
        raise ConfigError(f"DataParallel copies the model at each step: launch with torchrun, or {_INSTEAD}")
    refuse_partitioned(model)


def refuse_partitioned(model: torch.nn.Module) -> None:
    """Refuse a model whose parameters are not tensors that hold each of their coordinates.

    DeepSpeed ZeRO-3 leaves parameters of no elements (`ds_id`, `ds_tensor`); FSDP1 joins them into flat ones, of which
    each process has a part.

    Raises:
        ConfigError: naming the engine, and what to use instead.
    """
    if any(type(module).__name__ == "FullyShardedDataParallel" for module in model.modules()):
        raise ConfigError(f"FSDP1 flattens parameters: {_INSTEAD}")
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "ds_id") or hasattr(parameter, "ds_tensor"):
            raise ConfigError(f"parameter {name!r} is partitioned by DeepSpeed ZeRO-3: {_INSTEAD}, or ZeRO-1 or 2")
        if hasattr(parameter, "_is_flat_param"):
            raise ConfigError(f"parameter {name!r} is flattened by FSDP1: {_INSTEAD}")
