"""What a row of a batch is asked to generate, and what it gives."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from graft.errors import ConfigError

if TYPE_CHECKING:
    from graft.mixture.mixed_model import Named


Finish = Literal["stop", "length", "not_finite"]


@dataclass(frozen=True)
class GenerationRequest:
    """A text to go on with.

    Attributes:
        id: by which its tokens are told from others'.
        tokens: of the text, at least one.
        skill: that generates: a name, several names, or None for the base.
        max_new_tokens: after which it ends.
        temperature: 0 for the likeliest token each time; else logits are divided by it, and tokens drawn.
        top_p: the probability of the likeliest tokens among which is drawn (arXiv 1904.09751); 1 for all.
        seed: of the draws; None for others each time.
        stop_tokens: after any of which it ends.

    Raises:
        ConfigError: a value is out of its range.
    """

    id: Hashable
    tokens: Sequence[int]
    skill: Named = None
    max_new_tokens: int = 16
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop_tokens: Sequence[int] = ()

    def __post_init__(self) -> None:
        if not len(self.tokens):
            raise ConfigError("a request needs at least one token to go on from")
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise ConfigError(f"temperature must be 0 or more, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise ConfigError(f"a seed is a number of 64 bits, not {self.seed}")

    @property
    def n_tokens(self) -> int:
        """Tokens of the text and of what is generated at most."""
        return len(self.tokens) + self.max_new_tokens


@dataclass(frozen=True)
class TokenEvent:
    """One generated token.

    Attributes:
        id: of the request.
        token: the token, a stop token among them; -1 where there is none.
        finished: whether the request ends with it: None where it goes on, "stop" after a stop token, "length" after as
            many tokens as it may have, "not_finite" where the model's outputs are no numbers to choose a token by.
    """

    id: Hashable
    token: int
    finished: Finish | None = None
