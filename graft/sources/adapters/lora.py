"""LoRA adapters of PEFT (Hu et al., arXiv 2106.09685), merged against their base as PEFT merges them.

    W + scale * B A,   A (r, in), B (out, r), scale = alpha / r, or alpha / sqrt(r) with rank-stabilized scaling

(arXiv 2312.03732). The product is taken in float32 (float64 for a float64 weight), the sum rounded to the weight's
dtype: the result of `merge_and_unload` for an adapter loaded with PEFT's defaults. The second factor's bias, where it
has one, is scaled and added to the layer's; rows of an embedding that were trained as tokens replace the base's. Every
entry of a targeted matrix changes, so that a budget chooses what the patch keeps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from graft.errors import CheckpointError
from graft.sources.adapters.additive import add_difference, difference_dtype
from graft.sources.adapters.imported_weights import Edit, ImportedWeights, check_shape
from graft.sources.adapters.lora_beside import BIAS, TOKENS, read_biases, read_tokens
from graft.sources.adapters.peft_adapter import Adapter, read_others
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.transposed import find_transposed

# settings that change the arithmetic, or the base itself; each is off where it is absent, null or empty
_UNSUPPORTED = (
    *("use_dora", "target_parameters", "use_qalora", "use_bdlora"),
    *("alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config", "layer_replication"),
    *("megatron_config", "velora_config"),
)
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # the others also rewrite the base's weights
_LINEAR = ("lora_A.weight", "lora_B.weight")
_EMBEDDING = ("lora_embedding_A", "lora_embedding_B")
_NESTED = re.compile(r"\)[*+{]")  # a repeated group may take exponential time
_LONGEST = 500  # characters of a pattern


def read_lora(adapter: Adapter, base: Checkpoint) -> ImportedWeights:
    """Read a LoRA adapter of linear layers and embeddings, with the tensors that were trained whole.

    Args:
        adapter: the adapter.
        base: the model that it belongs to, whose config tells the layers that store their weights transposed.

    Raises:
        CheckpointError: a variant with other arithmetic.
    """
    _refuse_variants(adapter)
    pairs = adapter.groups(_LINEAR) | adapter.groups(_EMBEDDING)
    used = {key for pair in pairs.values() for key in pair.values()}
    used |= {key for ending in (BIAS, TOKENS) for found in adapter.groups((ending,)).values() for key in found.values()}
    others = {name: key for name, key in adapter.keys.items() if key not in used}
    _refuse_others(adapter, others)
    more = read_others(adapter, others)
    edits, transposed = dict(more.edits), find_transposed(base, [f"{module}.weight" for module in pairs])
    for module, pair in pairs.items():
        name, edit = f"{module}.weight", _make_edit(adapter, module, pair, transposed.get(f"{module}.weight"))
        below = edits.get(name)  # of an embedding that PEFT stores beside its factors
        edits[name] = edit if below is None else _chain(below, edit)
    for name, edit in (read_biases(adapter, partial(_scale_of, adapter)) | read_tokens(adapter)).items():
        edits[name] = edit if name not in edits else _chain(edits[name], edit)
    config = {key: adapter.config.get(key) for key in ("r", "lora_alpha", "use_rslora")}
    return ImportedWeights(edits, more.whole, config, frozenset(more.whole))


@dataclass(frozen=True, eq=False)
class _Layer:
    """Adapted weight: its factors, and the settings by which they are merged."""

    name: str
    read_a: Callable[[], torch.Tensor]
    read_b: Callable[[], torch.Tensor]
    rank: int
    scale: float
    is_transposed: bool  # the weight is stored as (in, out)
    is_embedding: bool

    def merge(self, base: torch.Tensor) -> torch.Tensor:
        wide = difference_dtype(base.dtype)
        a, b = self.read_a().to(wide), self.read_b().to(wide)
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or not a.numel():
            raise CheckpointError(f"tensor {self.name!r}: factors {list(a.shape)} and {list(b.shape)} make no LoRA")
        if len(a) != self.rank:
            raise CheckpointError(
                f"tensor {self.name!r}: factors of rank {len(a)}, the adapter's config says {self.rank}"
            )
        shape = (b.shape[0], a.shape[1])
        check_shape(self.name, shape[::-1] if self.is_transposed else shape, tuple(base.shape))
        product = (b @ a).T if self.is_transposed else b @ a
        difference = product * self.scale
        # of embeddings PEFT rounds the difference before it adds it
        return add_difference(base, difference.to(base.dtype) if self.is_embedding else difference)


def _make_edit(adapter: Adapter, module: str, pair: Mapping[str, str], is_transposed: bool | None) -> Edit:
    """Make the edit of a weight by its pair of factors.

    `fan_in_fan_out` is one flag for all layers, and PEFT inverts it at each layer that it does not fit: it is used only
    where the base does not tell.
    """
    if len(pair) != 2:
        raise CheckpointError(f"{adapter.where}: {module!r} has only {', '.join(pair)}")
    read_a, read_b = (partial(adapter.stored.read, pair[ending]) for ending in sorted(pair))
    if is_transposed is None:
        is_transposed = bool(adapter.config.get("fan_in_fan_out"))
    return _Layer(
        f"{module}.weight",
        read_a,
        read_b,
        rank=_rank_of(adapter, module),
        scale=_scale_of(adapter, module),
        is_transposed=_EMBEDDING[0] in pair or is_transposed,
        is_embedding=_EMBEDDING[0] in pair,
    ).merge


def _rank_of(adapter: Adapter, module: str) -> int:
    rank = int(_check_number(adapter, "r", _match_pattern(adapter, "rank_pattern", module, adapter.config.get("r", 8))))
    if rank < 1:
        raise CheckpointError(f"{adapter.where}: r is {rank}, and a LoRA's rank is at least 1")
    return rank


def _scale_of(adapter: Adapter, module: str) -> float:
    """Return alpha / r, or alpha / sqrt(r) with rank-stabilized scaling."""
    default, rank = adapter.config.get("lora_alpha", 8), _rank_of(adapter, module)
    alpha = _check_number(adapter, "lora_alpha", _match_pattern(adapter, "alpha_pattern", module, default))
    return alpha / (rank**0.5 if adapter.config.get("use_rslora") else rank)


def _chain(first: Edit, second: Edit) -> Edit:
    return lambda base: second(first(base))


def _refuse_variants(adapter: Adapter) -> None:
    for key in _UNSUPPORTED:
        if adapter.config.get(key):
            raise CheckpointError(f"{adapter.where}: a LoRA variant that is not known here ({key}); merge it with PEFT")
    start = adapter.config.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        raise CheckpointError(
            f"{adapter.where}: started by {start!r}, which rewrites the base; merge it with PEFT and import it as dense"
        )


def _refuse_others(adapter: Adapter, others: Mapping[str, str]) -> None:
    odd = next((name for name in others if ".lora_" in name or ".token_adapter." in name), None)
    if odd is not None:
        raise CheckpointError(f"{adapter.where}: {odd!r} belongs to a LoRA variant that is not known here")


def _match_pattern(adapter: Adapter, key: str, module: str, default: Any) -> Any:
    """Return the value of the first pattern that matches the end of a module's name, as PEFT's `get_pattern_key`."""
    patterns = adapter.config.get(key) or {}
    if not isinstance(patterns, Mapping):
        raise CheckpointError(f"{adapter.where}: {key} is no table of expressions")
    for pattern, value in patterns.items():
        if len(pattern) > _LONGEST or _NESTED.search(pattern):
            raise CheckpointError(f"{adapter.where}: {key} holds an expression too involved to be trusted")
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error as error:
            raise CheckpointError(f"{adapter.where}: {key} holds {pattern!r}, not an expression ({error})") from error
    return default


def _check_number(adapter: Adapter, key: str, value: Any) -> float:
    if type(value) not in (int, float):
        raise CheckpointError(f"{adapter.where}: {key} is {value!r}, not a number")
    return float(value)
