"""Cost of protection: a protected step of training against a plain one on a Llama of 31M parameters, 512 tokens a step.

All variants take their steps in turn, in one process, on models of their own; a ratio is the median over the rounds of
a variant's time to the plain step's in the same round, with its 95 % bootstrap interval. A step is forward,
backward, clipping, fused AdamW.

`measure("cuda")` takes a Llama of 1.0B parameters in bf16 and 2,048 tokens a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import graft
from graft.patch.mask import Mask
from graft.tensors.dtypes import spec_of
from graft.train.protection.guard import How, Protection
from tests.benchmarks.timing import ratio_of, times_in_turn

ROUNDS = 30
SMALL = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8}
LARGE = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32}
VARIANTS: tuple[tuple[float, How], ...] = ((1e-4, "auto"), (0.5, "auto"), (0.5, "bits"), (0.999, "auto"))


@dataclass
class Runner:
    """One variant: its model, its optimizer, and what protects it."""

    density: float
    model: Any
    optimizer: torch.optim.Optimizer
    protection: Protection | None
    ids: torch.Tensor

    @classmethod
    def make(cls, density: float, how: How, device: str) -> Runner:
        """A random model with a random share of every tensor protected."""
        torch.manual_seed(0)
        sizes, tokens = (LARGE, 2048) if device == "cuda" else (SMALL, 512)
        config = LlamaConfig(vocab_size=8192, tie_word_embeddings=True, num_key_value_heads=8, **sizes)  # type: ignore[arg-type]
        model = LlamaForCausalLM(config).to(device, torch.bfloat16 if device == "cuda" else torch.float32)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        protection = graft.protect(model, optimizer, draw_mask(model, density), how=how) if density else None
        ids = torch.randint(0, 8192, (1, tokens), device=device)
        return cls(density, model, optimizer, protection, ids)

    def step(self) -> None:
        """Forward, backward, clipping, update."""
        self.model(input_ids=self.ids, labels=self.ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    @property
    def state_bytes(self) -> int:
        """Of the optimizer."""
        states = self.optimizer.state.values()
        return sum(item.nbytes for state in states for item in state.values() if isinstance(item, torch.Tensor))


def measure(
    device: str = "cpu", rounds: int = ROUNDS, variants: Sequence[tuple[float, How]] = VARIANTS
) -> list[dict[str, object]]:
    """One row per variant: the ratio of the step's times with its interval, and memory."""
    asked: tuple[tuple[float, How], ...] = ((0.0, "auto"), *variants)
    runners = [Runner.make(density, how, device) for density, how in asked]
    steps = [(str(i), runner.step) for i, runner in enumerate(runners)]
    seconds = [np.array(found) / 1e3 for found in times_in_turn(steps, rounds, device).values()]
    for runner in runners[1:]:
        assert runner.protection is not None
        runner.protection.check()
    return [_row(runner, runners[0], seconds[i], seconds[0]) for i, runner in enumerate(runners) if i]


def draw_mask(model: torch.nn.Module, density: float) -> Mask:
    """A random share of every tensor."""
    generator = np.random.default_rng(0)
    weights = dict(model.named_parameters())
    draws = {name: np.flatnonzero(generator.random(w.numel()) < density) for name, w in weights.items()}
    return Mask.of({name: spec_of(weight) for name, weight in weights.items()}, draws)


def _row(runner: Runner, plain: Runner, mine: np.ndarray, theirs: np.ndarray) -> dict[str, object]:
    protection = runner.protection
    assert protection is not None
    mib = 2**20
    return {
        "protected": runner.density,
        "how": protection.implementation,
        "step ms": round(float(np.median(mine)) * 1e3),
        "plain step ms": round(float(np.median(theirs)) * 1e3),
        "ratio": ratio_of(mine, theirs),
        "protection MiB": round(protection.nbytes / mib, 2),
        "values and bits MiB": round(_values_and_bits(runner) / mib, 2),
        "optimizer state MiB": round(runner.state_bytes / mib, 2),
        "of AdamW's": f"{runner.state_bytes / plain.state_bytes:.2%}",
    }


def _values_and_bits(runner: Runner) -> float:
    weights = list(runner.model.parameters())
    entries = 0 if runner.protection is None else runner.protection.k
    return sum(weight.numel() for weight in weights) / 8 + entries * weights[0].element_size()


if __name__ == "__main__":
    for row in measure():
        print(row)
