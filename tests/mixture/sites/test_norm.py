"""What works as a norm is found out, not known by name."""

from __future__ import annotations

import torch
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from graft.mixture.sites.norm import is_norm, normalize


class Squared(torch.nn.Module):
    """Not linear in its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(8) + 0.5)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs * self.weight**2


class Scaled(torch.nn.Module):
    """Linear in it, and its output depends on nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(8) + 0.5)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.roll(1, -1) * self.weight + 3


def test_norms_and_others() -> None:
    for norm in (torch.nn.LayerNorm(8), torch.nn.LayerNorm(8, bias=False), LlamaRMSNorm(8), GemmaRMSNorm(8), Scaled()):
        torch.nn.init.normal_(norm.weight)
        assert is_norm(norm)
    assert not is_norm(Squared())
    assert not is_norm(torch.nn.PReLU(8))
    assert not is_norm(torch.nn.Linear(8, 1))
    assert not is_norm(torch.nn.LayerNorm((8, 8)))


def test_what_a_weight_is_multiplied_with() -> None:
    inputs = torch.randn(2, 3, 8)
    norm = torch.nn.LayerNorm(8)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    before = norm.weight.clone()
    found = normalize(norm, ((inputs,), {}))
    torch.testing.assert_close(found * norm.weight + norm.bias, norm(inputs))
    assert torch.equal(norm.weight, before)
    assert isinstance(norm.weight, torch.nn.Parameter)
