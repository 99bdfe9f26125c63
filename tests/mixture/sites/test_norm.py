"""What works as a norm is found out, not known by name."""

from __future__ import annotations

import torch
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

import graft
from graft.mixture.sites.norm import is_norm, normalize
from tests.mixture.mixing import draw_patch, one_by_one


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


class Turned(torch.nn.Module):
    """Norms heads that lie across tokens, as an attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = LlamaRMSNorm(8)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(inputs.transpose(1, 2))
        return normed.transpose(1, 2)


@torch.no_grad()
def test_a_norm_whose_output_is_not_contiguous() -> None:
    model, inputs = Turned(), torch.randn(4, 3, 2, 8)
    patches = {name: draw_patch(model, seed, 0.5) for seed, name in enumerate("ab", 1)}
    rows = ["a", None, "b", "a"]
    assert not model.norm(inputs.transpose(1, 2)).is_contiguous()
    wanted = one_by_one(model, patches, rows, lambda: model(inputs))
    assert (wanted[0] - model(inputs)[0]).abs().max() > 0.01
    with graft.serve_patches(model, patches) as mixed:
        for exact in (False, True):
            with mixed.skills(rows, exact=exact):
                torch.testing.assert_close(model(inputs), wanted)
