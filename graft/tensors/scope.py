"""Scopes: the tensors that a mask may touch, as a named choice or a regular expression over names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graft.errors import ConfigError
from graft.tensors.tied_names import TiedNames

if TYPE_CHECKING:
    from graft.tensors.checkpoint import Checkpoint

# lists of blocks by every name that architectures give them, ALBERT's albert_layer_groups among them, and XLM's, which
# has one for each part of a block
_LAYER = re.compile(r"(^|[._])(layers?|h|blocks?|groups?|stages?|attentions|ffns|layer_norm[12]|cells)\.\d+\.")
_FROM = re.compile(r"(.*)>=(\d+)", re.DOTALL)  # no tensor's name holds ">=", which a regular expression could mean
_EMBEDDING = re.compile(  # w is CTRL's table
    r"(^|[._])(embeddings?|embed|embed_\w+|\w+_embeddings?|wte|wpe|shared)(\.|$)|^(transformer\.)?w\.weight$"
)
# beside tables of embeddings, what the first block reads: norms and projections of embeddings (ELECTRA's
# embeddings_project, BLOOM's word_embeddings_layernorm, XLM's layer_norm_emb) or into the width of the blocks (OPT's
# project_in); and what every block reads: the norm of DeBERTa's relative positions, biases by relative position that
# blocks share (MPNet's relative_attention_bias, LayoutLM's rel_pos_bias), Gemma's inputs per layer. Where a module
# stands in the model does not tell: OPT's final norm comes before its blocks
_BEFORE_BLOCKS = re.compile(
    r"(^|[._])(emb[a-z]*|inputs?)([._]|$)|_in\.(weight|bias)$|(^|\.)encoder\.LayerNorm\.|(^|\.)per_layer_"
    r"|(^|[._])rel(ative)?_"
)
_AFTER_FIRST_BLOCK = re.compile(r"(^|\.)encoder\.conv\.")  # DeBERTa's convolution, whose output the second block reads
_UNTIED = TiedNames()
KINDS = ("layers", "embeddings", "heads")


@dataclass(frozen=True)
class Scope:
    """A choice of tensors.

    Attributes:
        name: "layers" (numbered transformer blocks; the default, as in arXiv 2302.06600), "embeddings",
            "heads" (everything else: poolers, final norms, output heads), several joined by "+", "all",
            or a regular expression that is searched in tensor names. With ">=L" at its end, such as "layers>=6", the
            numbered blocks before L, the embeddings, what lies between these and the blocks, and what blocks before L
            share with later ones are left out, so that until block L all is as in the base.

    Raises:
        ConfigError: the name is neither a known choice nor a valid regular expression.
    """

    name: str = "layers"

    def __post_init__(self) -> None:
        try:
            re.compile(self._choice[0])
        except re.error as error:
            raise ConfigError(f"scope {self.name!r:.80}: not a regular expression ({error})") from error

    def holds(self, tensor: str, tied: TiedNames = _UNTIED) -> bool:
        """Return whether a tensor of that name may be touched; under another name, too, it must not act too early."""
        choice, first = self._choice
        if first is not None and not all(_begins_at(name, first) for name in tied.group_of(tensor)):
            return False
        if choice == "all":
            return True
        kinds = choice.split("+")
        if set(kinds) <= set(KINDS):
            return kind_of(tensor) in kinds
        return re.search(choice, tensor) is not None

    @property
    def _choice(self) -> tuple[str, int | None]:
        """The choice without its first block, and that block's number."""
        match = _FROM.fullmatch(self.name)
        return (match[1], int(match[2])) if match else (self.name, None)

    def names(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        """Return the parameters of a checkpoint in this scope, in ascending order.

        Raises:
            ConfigError: none is.
        """
        names = tuple(name for name in checkpoint.parameters if self.holds(name, checkpoint.tied))
        if not names:
            raise ConfigError(
                f"scope {self.name!r:.80} holds no tensor of {checkpoint.path.name}; "
                f"choose from {', '.join(KINDS)}, all, a sum like layers+embeddings, or a regular expression, "
                "and after it a first layer, as in layers>=2, that the model has"
            )
        return names


def _begins_at(tensor: str, first: int) -> bool:
    """Return whether a tensor lies in a block of this number or a later one, or after all of them."""
    block = block_of(tensor)
    if block is None:
        too_early = _BEFORE_BLOCKS.search(tensor) or (first > 0 and _AFTER_FIRST_BLOCK.search(tensor))
        return kind_of(tensor) == "heads" and not too_early
    return int(block.rpartition(".")[2]) >= first


def kind_of(tensor: str) -> str:
    """Return which of `KINDS` a tensor belongs to, by its name."""
    if is_layer_name(tensor):
        return "layers"
    return "embeddings" if _EMBEDDING.search(tensor) else "heads"


def is_layer_name(tensor: str) -> bool:
    """Return whether a tensor lies in a numbered transformer block."""
    return _LAYER.search(tensor) is not None


def layer_of(tensor: str) -> str:
    """Return the numbered block that a tensor lies in, such as "encoder.layer.3", or its kind where it is in none."""
    return block_of(tensor) or kind_of(tensor)


def block_of(tensor: str) -> str | None:
    """Return the numbered block that a tensor lies in, None where it is in none."""
    match = _LAYER.search(tensor)
    return tensor[: match.end() - 1] if match else None
