"""A small model, every optimizer of torch, and a training loop of one's own."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import graft
from graft.patch.mask import Mask
from graft.tensors.dtypes import as_bits, spec_of
from graft.train.protection.guard import How

Bits = dict[str, torch.Tensor]
Make = Callable[[Iterable[torch.Tensor]], torch.optim.Optimizer]


class Rounded(torch.optim.Optimizer):
    """Momentum in blocks of 8 bits, as low-memory optimizers keep it: a state of another shape than the weight's."""

    def __init__(self, params: Any, lr: float = 0.1, block: int = 64) -> None:
        super().__init__(params, {"lr": lr, "block": block})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in (weight for weight in group["params"] if weight.grad is not None):
                state, block = self.state[weight], group["block"]
                flat = torch.nn.functional.pad(weight.grad.float().flatten(), (0, -weight.numel() % block))
                flat = flat.view(-1, block)
                if state:
                    flat = flat + 0.9 * state["low"] * state["scale"]
                state["scale"] = flat.abs().amax(1, keepdim=True) / 127 + 1e-12
                state["low"] = (flat / state["scale"]).round().to(torch.int8)
                moved = (state["low"] * state["scale"]).flatten()[: weight.numel()].view_as(weight)
                weight.mul_(0.99).sub_(group["lr"] * moved)


class Wrapper(torch.optim.Optimizer):
    """An optimizer around another, as accelerate and 8-bit libraries have them: its own step runs no hooks."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def param_groups(self) -> Any:  # type: ignore[override]
        return self.optimizer.param_groups

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.optimizer.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)

    def state_dict(self) -> Any:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self.optimizer.load_state_dict(state)


def _of(name: str, **settings: Any) -> Make:
    return lambda weights: getattr(torch.optim, name)(weights, **settings)


DECAY = {"weight_decay": 0.1}
OPTIMIZERS: dict[str, Make] = {
    "sgd, momentum": _of("SGD", lr=0.5, momentum=0.9, **DECAY),
    "sgd, nesterov, foreach": _of("SGD", lr=0.5, momentum=0.9, nesterov=True, foreach=True, **DECAY),
    "sgd, fused": _of("SGD", lr=0.5, momentum=0.9, fused=True, **DECAY),
    "adamw": _of("AdamW", lr=0.1, eps=1e-4, **DECAY),
    "adamw, foreach": _of("AdamW", lr=0.1, eps=1e-4, foreach=True, **DECAY),
    "adamw, fused": _of("AdamW", lr=0.1, eps=1e-4, fused=True, **DECAY),
    "adam, amsgrad": _of("Adam", lr=0.1, eps=1e-4, amsgrad=True, **DECAY),
    "adamax": _of("Adamax", lr=0.1, eps=1e-4, **DECAY),
    "nadam": _of("NAdam", lr=0.1, eps=1e-4, **DECAY),
    "radam": _of("RAdam", lr=0.1, eps=1e-4, decoupled_weight_decay=True, **DECAY),
    "adagrad": _of("Adagrad", lr=0.1, eps=1e-4, **DECAY),
    "adadelta": _of("Adadelta", lr=1.0, eps=1e-4, **DECAY),
    "rmsprop": _of("RMSprop", lr=0.1, eps=1e-4, momentum=0.9, **DECAY),
    "rprop": _of("Rprop", lr=0.1),
    "asgd": _of("ASGD", lr=0.5, **DECAY),
    "adafactor": _of("Adafactor", lr=0.1, **DECAY),
    "muon": _of("Muon", lr=0.1, **DECAY),
    "lbfgs": _of("LBFGS", lr=0.5, max_iter=3),
    "8 bits": Rounded,
    "wrapped": lambda weights: Wrapper(torch.optim.AdamW(weights, lr=0.1, eps=1e-4, **DECAY)),  # type: ignore[arg-type]
}


@dataclass(frozen=True)
class Setting:
    """A training loop."""

    optimizer: str = "adamw"
    dtype: torch.dtype = torch.float32
    accumulation: int = 1
    clip: float | None = None
    resume: bool = False
    how: How = "auto"
    steps: int = 4


def make_model(dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.nn.Module:
    """Matrices alone, which is what Muon takes."""
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(24, 32, bias=False), torch.nn.GELU(), torch.nn.Linear(32, 8, bias=False)]
    return torch.nn.Sequential(*layers).to(dtype)


def make_mask(model: torch.nn.Module, density: float, seed: int = 0) -> Mask:
    """A share of each weight, one entry at least."""
    generator = np.random.default_rng(seed)
    weights = dict(model.named_parameters())
    indices = {
        name: generator.choice(w.numel(), max(1, round(density * w.numel())), replace=False)
        for name, w in weights.items()
    }
    return Mask.of({name: spec_of(w) for name, w in weights.items()}, indices)


def loss_of(model: torch.nn.Module, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    dtype = next(model.parameters()).dtype
    inputs = torch.randn(16, 24, generator=generator).to(dtype)
    return torch.nn.functional.cross_entropy(model(inputs).float(), torch.arange(16) % 8)


def run(setting: Setting, mask: Mask | None) -> Bits:
    """The weights' bits after a training, protected where there is a mask, broken off halfway where asked for."""
    model = make_model(setting.dtype)
    if not setting.resume:
        _loop(setting, mask, model, range(setting.steps))
        return bits_of_weights(model)
    state = _loop(setting, mask, model, range(setting.steps // 2))
    fresh = make_model(setting.dtype)
    fresh.load_state_dict(model.state_dict())
    _loop(setting, mask, fresh, range(setting.steps // 2, setting.steps), state)
    return bits_of_weights(fresh)


def bits_of_weights(model: torch.nn.Module) -> Bits:
    return {name: as_bits(weight.detach().clone()).flatten() for name, weight in model.named_parameters()}


def moved_at(before: Bits, after: Bits, mask: Mask) -> int:
    """Number of a mask's entries whose bits differ."""
    return sum(int((before[name] != after[name])[torch.tensor(mask[name])].sum()) for name in mask)


def _loop(setting: Setting, mask: Mask | None, model: torch.nn.Module, steps: range, state: bytes = b"") -> bytes:
    optimizer = OPTIMIZERS[setting.optimizer](model.parameters())
    protection = None if mask is None else graft.protect(model, optimizer, mask, how=setting.how)
    if state:
        optimizer.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
    for step in steps:
        _step(setting, model, optimizer, step)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    if protection is not None:
        protection.check()
        protection.release()
    return file.getvalue()


def _step(setting: Setting, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        for part in range(setting.accumulation):
            loss = loss_of(model, setting.accumulation * step + part)
            loss.backward()  # type: ignore[no-untyped-call]
        if setting.clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), setting.clip)
        return loss

    if setting.optimizer == "lbfgs" or step % 2:  # both ways to step
        optimizer.step(closure)
    else:
        closure()
        optimizer.step()
