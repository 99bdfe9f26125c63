"""What each of two processes does in the tests of protection over processes."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import graft
from graft.patch.mask import Mask
from graft.patch.skill_patch import Patch
from graft.tensors.dtypes import as_bits, take
from graft.tensors.hashing import hash_values
from tests.train.protection.loops import Bits, bits_of_weights, loss_of, make_mask, make_model, moved_at

SKILL = "2.weight"


def work(rank: int, folder: Path) -> None:
    """Everything that is claimed, asserted on every process."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    try:
        for engine in ("ddp", "fsdp"):
            for optimizer in (torch.optim.AdamW, torch.optim.SGD):
                for density in (0.1, 0.9):
                    compare(engine, optimizer, density)
        dist.barrier()  # neither leaves while the other still talks to it
    finally:
        dist.destroy_process_group()
    # Gloo's threads may outlive the interpreter's teardown, which then aborts a process that has nothing left to do.
    os._exit(0)


def compare(engine: str, optimizer: Any, density: float) -> None:
    """The core keeps its bits, everything else moves, and without protection the core moves too."""
    before, mask = bits_of_weights(make_model()), make_mask(make_model(), density)
    free, kept = train(engine, optimizer, None), train(engine, optimizer, mask)
    assert moved_at(before, free, mask) > 0.9 * len(mask)  # the control
    assert moved_at(before, kept, mask) == 0
    others = mask.complement(mask.specs)
    assert moved_at(before, kept, others) > 0.9 * len(others)
    for bits in kept.values():  # the processes agree
        theirs = bits.clone()
        dist.broadcast(theirs, 0)
        assert torch.equal(bits, theirs)


def train(engine: str, optimizer: Any, mask: Mask | None) -> Bits:
    """The whole weights' bits after four steps of two micro-batches, of which each process has its own."""
    model = wrap(engine)
    core = [] if mask is None else [mask, patch_there(mask)]
    made = optimizer(model.parameters(), lr=0.1, weight_decay=0.1)
    with graft.protect(model, made, core) as protection:
        assert ("compact" in protection.implementation) == (engine == "ddp" and bool(core) and len(mask or ()) > 900)
        for step in range(4):
            made.zero_grad()
            for part in range(2):
                with syncing(model, part == 1):
                    loss_of(model, 4 * step + 2 * part + dist.get_rank()).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            made.step()
    whole = {name.removeprefix("module."): full(weight) for name, weight in model.named_parameters()}
    return {name: as_bits(weight.clone()).flatten() for name, weight in whole.items()}


def wrap(engine: str) -> torch.nn.Module:
    if engine == "ddp":
        return DistributedDataParallel(make_model())
    model = make_model()
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(model[0], mesh=mesh)
    return fully_shard(model, mesh=mesh)


def patch_there(mask: Mask) -> Patch:
    """A skill that the model has already, at the mask's entries of one tensor."""
    weight = dict(make_model().named_parameters())[SKILL].detach()
    values = take(weight, torch.tensor(mask[SKILL]))
    part = Mask.of({SKILL: mask.specs[SKILL]}, {SKILL: mask[SKILL]})
    return Patch(part, {SKILL: values}, {SKILL: hash_values(values + 1)})


@contextlib.contextmanager
def syncing(model: Any, last: bool) -> Any:
    """Gradients travel after the last micro-batch alone."""
    if isinstance(model, DistributedDataParallel):
        with contextlib.nullcontext() if last else model.no_sync():
            yield
    else:
        model.set_requires_gradient_sync(last)
        yield


def full(weight: Any) -> torch.Tensor:
    whole: torch.Tensor = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
    return whole.detach()
