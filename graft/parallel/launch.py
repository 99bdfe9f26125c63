"""Launchers: the environment that `torchrun`, `accelerate launch` and others set, and the process group made from it.

torchrun starts the same command N times with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT set; accelerate
and most scripts for Slurm do the same, and Ray's TorchTrainer makes the group itself. Without these a run is a single
process, and nothing here imports or starts anything.
"""

from __future__ import annotations

import contextlib
import os
from datetime import timedelta

import torch
from torch import distributed

from graft.errors import ConfigError
from graft.parallel.ranks import Ranks

NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_STORE_TIMEOUT = timedelta(seconds=10)  # for the launcher's own store, which is there before we are
_ENGINES = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron",
}


def is_launched() -> bool:
    """Return whether a launcher started this process as one of several."""
    return all(name in os.environ for name in NEEDED) and int(os.environ["WORLD_SIZE"]) > 1


def find_ranks() -> Ranks:
    """Find the processes of this run; join their group where a launcher started them and nobody has.

    Raises:
        ConfigError: the launcher asks for an engine of its own.
    """
    if not distributed.is_available() or not (distributed.is_initialized() or is_launched()):
        return Ranks()
    if not distributed.is_initialized():
        _join()
    return Ranks(distributed.get_rank(), distributed.get_world_size())


def leave() -> None:
    """Destroy the process group at the end of a run, where there is one."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def is_first_to_fail() -> bool:
    """Return whether no other process of this run has failed before: the first one says why, the others follow it."""
    with contextlib.suppress(RuntimeError, ValueError):  # the store went down with the process that held it
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = distributed.TCPStore(  # type: ignore[attr-defined]
            host, port, is_master=False, timeout=_STORE_TIMEOUT, wait_for_workers=False
        )
        return bool(store.add(f"graft/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1) == 1)
    return False


def _join() -> None:
    """Join the group, with NCCL for tensors on GPUs, one GPU per process, and Gloo for those in host memory."""
    for name, engine in _ENGINES.items():
        if os.environ.get(name, "").lower() in ("1", "true", "yes"):
            raise ConfigError(
                f"the launcher asks for {engine}, which partitions weights before masks can be mapped to them: "
                "launch without it and use --parallel fsdp (FSDP2) where the model does not fit"
            )
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        distributed.init_process_group("cpu:gloo,cuda:nccl")
    else:
        distributed.init_process_group("gloo")
