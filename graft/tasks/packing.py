"""Packing: texts with a common beginning as one row of tokens, so that a causal model reads the beginning once.

    texts             "what color ? red", "what color ? light blue"
    tokens            what  color  ?   red   light  blue
    positions           0     1    2     3       3     4
    branches            0     0    0     1       2     2

A token sees the beginning (branch 0) and its own branch up to itself, so that it has the states that it has in its own
text, up to rounding. Prefixes of several answers were shared so in Hydragen (arXiv 2402.05099) and SpecInfer's trees
(arXiv 2305.09781). It needs a model that takes a mask of pairs and reads nothing of a token's place but its position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from graft.tasks.prompt import common_prefix

# architectures in which all that one token knows of another comes through attention under the mask, and a token's place
# through its position: the tests compare each with unpacked texts
PACKABLE = frozenset({"gpt2", "gpt_neox", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3", "smollm3"})


class Packed(NamedTuple):
    """Texts of a common beginning as one row of tokens.

    Attributes:
        ids: the tokens.
        positions: of each in its own text.
        branches: 0 for the common beginning, i + 1 for the rest of text i.
        n_shared: length of the beginning.
        offsets: of each text, what its positions after the beginning are less than their places in the row.
    """

    ids: list[int]
    positions: list[int]
    branches: list[int]
    n_shared: int
    offsets: list[int]

    def place(self, text: int, position: int) -> int:
        """Return where in the row a text has its token of some position."""
        return position if position < self.n_shared else position + self.offsets[text]


def can_pack(model: Any) -> bool:
    """Return whether a model gives packed texts what it gives them one by one."""
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    is_whole = layers == {"full_attention"} and not getattr(config, "sliding_window", None)
    return config.model_type in PACKABLE and is_whole and config._attn_implementation == "sdpa"


def pack(texts: Sequence[Sequence[int]]) -> Packed:
    """Pack texts, each as token ids, behind their longest common beginning."""
    shared = min((common_prefix(texts[0], other) for other in texts[1:]), default=len(texts[0]))
    packed = Packed(list(texts[0][:shared]), list(range(shared)), [0] * shared, shared, [])
    for number, text in enumerate(texts, start=1):
        packed.offsets.append(len(packed.ids) - shared)
        packed.ids.extend(text[shared:])
        packed.positions.extend(range(shared, len(text)))
        packed.branches.extend([number] * (len(text) - shared))
    return packed


def pack_inputs(rows: Sequence[Packed], width: int, n_read: int = 0) -> dict[str, torch.Tensor]:
    """Return a model's inputs beside the tokens, on the CPU.

    Args:
        rows: the texts.
        width: of the tokens, padded on the right.
        n_read: tokens of the beginning that all rows have in common and the model has read, which are no inputs.

    Returns:
        `position_ids` (n, width) int64, and `attention_mask` (n, 1, width, n_read + width) bool: whether a token (third
        axis) sees another (fourth). Padding is a branch of its own, which no token of a text sees.
    """
    padding = [n_read + width - len(row.ids) for row in rows]
    branches = torch.tensor([row.branches[n_read:] + [-1] * n for row, n in zip(rows, padding, strict=True)])
    positions = torch.tensor([row.positions[n_read:] + [0] * n for row, n in zip(rows, padding, strict=True)])
    is_seen = (branches == 0).unsqueeze(1) | (branches.unsqueeze(1) == branches.unsqueeze(2))
    mask = torch.nn.functional.pad(is_seen.tril(), (n_read, 0), value=True)
    return {"position_ids": positions, "attention_mask": mask.unsqueeze(1)}
