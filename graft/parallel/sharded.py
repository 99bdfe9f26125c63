"""Weights sharded over processes by FSDP2, and gathered again tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch

from graft.errors import CheckpointError
from graft.parallel.ranks import Ranks
from graft.tensors.scope import layer_of
from graft.tensors.shards import is_distributed, local_of, shard_of

Model = TypeVar("Model", bound=torch.nn.Module)


def shard_weights(model: Model, device: torch.device, products: torch.dtype | None = None) -> Model:
    """Shard a model over all processes in place: one group of tensors per numbered layer, one for the rest.

    Args:
        model: the whole model, in host memory: each layer goes to the device alone and leaves its shard there.
        device: where the shards go.
        products: the dtype of weights whose shards are to be fp32 all the same: they are gathered and multiplied
            rounded to it, and gradients are added up in fp32; where absent every shard has its weight's dtype.

    Raises:
        CheckpointError: a weight is in another dtype than `products`, in which it would be multiplied.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    for name, weight in model.named_parameters():
        if products not in (None, weight.dtype):
            raise CheckpointError(f"{name} is in {weight.dtype}, others in {products}: shards must be of one dtype")
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=products, reduce_dtype=None if products is None else torch.float32)
    layers = [module for name, module in model.named_modules() if name and layer_of(f"{name}.") == name]
    for module in (*layers, model):
        for weight in module.parameters():
            if products is not None and not is_distributed(weight):  # those of the layers are sharded before the rest
                weight.data = weight.data.float()
        fully_shard(module, mesh=mesh, mp_policy=policy)
    return model


def is_sharded(model: torch.nn.Module) -> bool:
    """Return whether a model's weights are DTensors."""
    return any(is_distributed(weight) for weight in model.parameters())


def reshard(model: torch.nn.Module) -> None:
    """Shard modules again: after a forward pass the outermost one holds whole weights until the next."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def gather_whole(tensor: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """Gather a DTensor as a plain tensor in the first process's host memory, of no elements in the others; collective.

    A plain tensor is returned as it is.
    """
    if not is_distributed(tensor):
        return tensor
    gathered = tensor.full_tensor().detach()  # of one tensor at a time on the device
    return gathered.cpu() if ranks.is_first else torch.empty(0)


def gather_state(model: torch.nn.Module, ranks: Ranks) -> dict[str, torch.Tensor]:
    """Gather a model's state as plain tensors in the first process, tensor by tensor; collective.

    Tied tensors stay tied.
    """
    weights = dict(model.named_parameters(remove_duplicate=False))
    gathered: dict[int, torch.Tensor] = {}
    result = {}
    for name, value in model.state_dict().items():
        owner = weights.get(name, value)
        if id(owner) not in gathered:
            gathered[id(owner)] = gather_whole(value, ranks)
        result[name] = gathered[id(owner)]
    return result


def put_state(model: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Write plain tensors, which every process has read, into a model's state or its shards here."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            local_of(tensor).copy_(shard_of(tensor).cut(state[name]))


def spread_like(tensor: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Shard a plain tensor of a weight's shape as the weight is; return it as it is where the weight is plain."""
    if not is_distributed(weight):
        return tensor
    from torch.distributed.tensor import DTensor

    local = shard_of(weight).cut(tensor).to(weight.device).contiguous()
    mesh, placements, stride = weight.device_mesh, weight.placements, weight.stride()
    return DTensor.from_local(local, mesh, placements, run_check=False, shape=weight.shape, stride=stride)
