"""Size of a patch file against the entropy bound, for real geometries from 22M to 8B parameters in bf16."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import transformers

from graft.files.tensor_spec import TensorSpec
from graft.patch.format.writing import patch_bytes
from graft.patch.mask import Mask
from graft.patch.provenance import BaseIdentity, Provenance
from graft.patch.skill_patch import Patch
from graft.patch.summary import measure_sizes
from graft.tensors.hashing import hash_values
from graft.tensors.scope import Scope

DENSITY = 1e-4


def geometries() -> Mapping[str, torch.nn.Module]:
    """Models on the meta device with the shapes of well-known ones."""
    with torch.device("meta"):
        return {
            "DistilBERT multilingual, 134M, 6 layers": transformers.DistilBertModel(
                transformers.DistilBertConfig(vocab_size=119547)
            ),
            "SmolLM2, 134M, 30 layers": transformers.LlamaForCausalLM(
                transformers.LlamaConfig(
                    vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                    num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
                )
            ),
            "TinyLlama, 1.1B, 22 layers": transformers.LlamaForCausalLM(
                transformers.LlamaConfig(
                    vocab_size=32000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=22,
                    num_attention_heads=32, num_key_value_heads=4,
                )
            ),
            "Llama 3.2, 1.2B, 16 layers": transformers.LlamaForCausalLM(
                transformers.LlamaConfig(
                    vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
                    num_attention_heads=32, num_key_value_heads=8, tie_word_embeddings=True,
                )
            ),
            "Llama 3.1, 8.0B, 32 layers": transformers.LlamaForCausalLM(
                transformers.LlamaConfig(
                    vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                    num_attention_heads=32, num_key_value_heads=8,
                )
            ),
        }  # fmt: skip


def measure(concentration: float = 0.0) -> list[dict[str, object]]:
    """One row per geometry: N, k, rows of the table, bytes, bytes an entry, ratio to the bound.

    Args:
        concentration: 0 spreads the entries uniformly over the layers; s > 0 weights each tensor by a lognormal
            factor of that sigma, as learned and attributed masks favor some tensors.
    """
    return [_measure(name, model, concentration) for name, model in geometries().items()]


def _measure(name: str, model: torch.nn.Module, concentration: float) -> dict[str, object]:
    tied = set(getattr(model, "all_tied_weights_keys", {}))
    specs = {key: TensorSpec("BF16", tuple(p.shape)) for key, p in model.named_parameters() if key not in tied}
    n = sum(spec.numel for spec in specs.values())
    k = int(DENSITY * n + 0.5)
    mask = _draw_mask({key: spec for key, spec in specs.items() if Scope().holds(key)}, k, concentration)
    generator = torch.Generator().manual_seed(0)
    values = {key: torch.randn(len(mask[key]), generator=generator).bfloat16() for key in mask}
    prints = {key: hash_values(value) for key, value in values.items()}
    provenance = Provenance(
        base=BaseIdentity("org/a-model-of-this-size", "0" * 40, "model", "0" * 64, n),
        scope="layers",
        n_maskable=n,
        method={"method": "attribution", "density": DENSITY, "points": 8, "scope": "layers", "seed": 0},
        task={"name": "sst2", "labels": ["negative", "positive"], "head": {"kind": "similarity"}},
        tool="skillgraft 0.1.0",
    )
    patch = Patch(mask, values, prints, provenance)
    size = len(patch_bytes(patch))
    sizes = measure_sizes(patch, size)
    row = {"geometry": name, "parameters": n, "entries": k, "rows": len(mask.indices), "bytes": size}
    return row | {"bytes/entry": round(size / k, 3), "ratio to bound": round(sizes.bound_ratio, 3)}


def _draw_mask(specs: Mapping[str, TensorSpec], k: int, concentration: float) -> Mask:
    generator = np.random.default_rng(0)
    sizes = np.array([spec.numel for spec in specs.values()], float)
    weights = sizes * np.exp(concentration * generator.standard_normal(len(sizes)))
    counts = generator.multinomial(k, weights / weights.sum())
    draws = {
        key: np.sort(_distinct(generator, spec.numel, count))
        for (key, spec), count in zip(specs.items(), counts, strict=True)
    }
    return Mask.of(specs, draws)


def _distinct(generator: np.random.Generator, n: int, count: int) -> np.ndarray:
    found = np.unique(generator.integers(0, n, int(count * 1.2) + 8))
    return generator.permutation(found)[:count]
