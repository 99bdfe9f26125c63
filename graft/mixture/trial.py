"""A trial: a model is run to find something out about it, and left as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def trial_of(model: torch.nn.Module) -> Iterator[None]:
    """Have a model run without randomness, and leave its modes and the random numbers to come as they were."""
    modes = {module: module.training for module in model.modules()}
    places = [*model.parameters(), *model.buffers()]
    devices = sorted({place.device.index or 0 for place in places if place.is_cuda})
    try:
        model.eval()
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
