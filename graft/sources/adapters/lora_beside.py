"""What a LoRA adapter of PEFT may hold beside its factors: biases of the second factor, and rows of embeddings.

    b + scale * b_B (`lora_bias`)

is added in float32 as the factors' product is; rows of an embedding that were trained as tokens
(`trainable_token_indices`) take the place of the base's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch

from graft.errors import CheckpointError
from graft.sources.adapters.additive import add_difference, difference_dtype
from graft.sources.adapters.imported_weights import Edit, check_shape
from graft.sources.adapters.peft_adapter import Adapter, Reader

BIAS, TOKENS = "lora_B.bias", "token_adapter.trainable_tokens_delta"


def read_biases(adapter: Adapter, scale_of: Callable[[str], float]) -> dict[str, Edit]:
    """Return the edits of the biases that second factors have; `scale_of` gives a module's scale."""
    edits: dict[str, Edit] = {}
    for module, keys in adapter.groups((BIAS,)).items():
        name = f"{module}.bias"
        edits[name] = partial(_add_bias, name, partial(adapter.stored.read, keys[BIAS]), scale_of(module))
    return edits


def read_tokens(adapter: Adapter) -> dict[str, Edit]:
    """Return the edits of embeddings of which rows were trained.

    Raises:
        CheckpointError: the config names no rows for one.
    """
    edits: dict[str, Edit] = {}
    for module, keys in adapter.groups((TOKENS,)).items():
        name = f"{module}.weight"
        rows = _rows_of(adapter, module)
        edits[name] = partial(_replace_rows, name, partial(adapter.stored.read, keys[TOKENS]), rows)
    return edits


def _rows_of(adapter: Adapter, module: str) -> torch.Tensor:
    """Return the (n,) int64 rows of a module, by the first name in the config that ends its own, as PEFT does."""
    listed = adapter.config.get("trainable_token_indices")
    if isinstance(listed, Mapping):
        listed = next((rows for name, rows in listed.items() if module.endswith(name)), None)
    if not isinstance(listed, list) or not all(type(row) is int and 0 <= row < 2**63 for row in listed):
        raise CheckpointError(f"{adapter.where}: trainable_token_indices names no rows of {module!r}")
    if len(set(listed)) != len(listed):
        raise CheckpointError(f"{adapter.where}: trainable_token_indices names a row of {module!r} twice")
    return torch.tensor(listed, dtype=torch.int64)


def _add_bias(name: str, read: Reader, scale: float, base: torch.Tensor) -> torch.Tensor:
    bias = read().to(difference_dtype(base.dtype))
    check_shape(name, tuple(bias.shape), tuple(base.shape))
    return add_difference(base, bias * scale)


def _replace_rows(name: str, read: Reader, rows: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    values = read()
    check_shape(name, tuple(values.shape), (len(rows), *base.shape[1:]))
    if len(rows) and int(rows.max()) >= len(base):
        raise CheckpointError(f"tensor {name!r}: row {int(rows.max())} lies outside its shape {list(base.shape)}")
    return base.index_copy(0, rows, values.to(base.dtype))
