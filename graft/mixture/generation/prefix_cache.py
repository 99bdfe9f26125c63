"""PrefixCache: keys and values of texts that many rows start with, the base's for all skills as far as they agree."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from graft.errors import ConfigError
from graft.mixture.generation.decoder import Decoder
from graft.mixture.generation.layer_trace import find_layers, hidden_of, keep_output, skip_layers, trace_layers
from graft.mixture.generation.row_cache import Layer, RowCache
from graft.mixture.mixed_model import MixedModel, Named
from graft.patch.skill_patch import Patch

Prefix = tuple[int, ...]
_Key = tuple[tuple[Patch, ...], Prefix]  # what is kept belongs to patches, not to the names that they have at present


@dataclass(eq=False)
class _Kept:
    """What is kept of a prefix for the base, or for a skill.

    Attributes:
        layers: keys and values: of the base from the first layer on, of a skill from the first that it touches on.
        outputs: number of layers -> what the last of them gives on the base, where a skill goes on from it.
    """

    layers: tuple[Layer, ...]
    outputs: dict[int, Any] = field(default_factory=dict)

    @property
    def n_bytes(self) -> int:
        hidden: int = sum(hidden_of(output).nbytes for output in self.outputs.values())
        return hidden + RowCache((), self.layers).n_bytes


class PrefixCache:
    """Keys and values of known prefixes, computed when a row first needs them.

    Below the first layer that a skill touches they are the base's, computed and held once for all skills; for each
    skill only the layers from there on are computed and held. What is kept belongs to the skill's patches: another
    patch of the same name finds nothing of it.

    Args:
        mixed: the model and its skills.
        max_bytes: bound of what is kept; what was used least lately makes room.

    Attributes:
        decoder: the model as it reads, tried out already.

    Raises:
        ConfigError: the model is no decoder whose layers attend to all tokens before.
    """

    def __init__(self, mixed: MixedModel, *, max_bytes: int = 2**30) -> None:
        self._mixed, self._max_bytes = mixed, max_bytes
        self.decoder = Decoder.of(mixed)
        self._prefixes: set[Prefix] = set()
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()
        self._layers = find_layers(mixed.model, self.decoder.n_layers)
        with mixed.skills([None]):
            self._done = trace_layers(mixed.model, self._layers, lambda: self.decoder.run([[0]], RowCache((0,))))

    @property
    def n_bytes(self) -> int:
        """Bytes that are kept at present."""
        return sum(kept.n_bytes for kept in self._kept.values())

    def add(self, tokens: Sequence[int]) -> None:
        """Make a prefix known; it is computed when a row starts with it.

        Raises:
            ConfigError: it has no token, one that is not in the vocabulary, or more than the model can read.
        """
        if not len(tokens):
            raise ConfigError("a prefix needs at least one token")
        self.decoder.check(tokens)
        self._prefixes.add(tuple(tokens))

    def remove(self, tokens: Sequence[int]) -> None:
        """Forget a prefix, and what is kept of it."""
        self._prefixes.discard(tuple(tokens))
        for key in [key for key in self._kept if key[1] == tuple(tokens)]:
            del self._kept[key]

    def match(self, tokens: Sequence[int]) -> Prefix:
        """Return the longest known prefix of a text; () where there is none."""
        found = (prefix for prefix in self._prefixes if tuple(tokens[: len(prefix)]) == prefix)
        return max(found, key=len, default=())

    def first_layer(self, skill: Named) -> int:
        """Return the number of the first layer whose keys and values a skill may change: as many are shared."""
        return min((self._done.get(name, 0) for name in self._mixed.touched(skill)), default=self.decoder.n_layers)

    def fetch(self, skill: Named, prefix: Sequence[int]) -> RowCache:
        """Return the keys and values of a prefix with a skill, as one row; computed where they are not kept."""
        prefix, patches = tuple(prefix), self._mixed.patches(skill)
        if not prefix:
            return RowCache((0,))
        start = self.first_layer(skill)
        if not patches or not start:
            layers = self._get((patches, prefix), lambda: self._read(skill, prefix, 0, {})).layers
        else:
            layers = self._extend_base(skill, patches, prefix, start)
        self._drop()
        return RowCache((len(prefix),), layers)

    def _extend_base(self, skill: Named, patches: tuple[Patch, ...], prefix: Prefix, start: int) -> tuple[Layer, ...]:
        base = self._get(((), prefix), lambda: self._read(None, prefix, start, {}))
        layers = base.layers[:start]
        if start < self.decoder.n_layers:
            own = self._get((patches, prefix), lambda: self._read(skill, prefix, start, base.outputs))
            layers += own.layers
        self._kept.move_to_end(((), prefix))  # it stays as long as what builds on it
        return layers

    def _get(self, key: _Key, make: Callable[[], _Kept]) -> _Kept:
        if key not in self._kept:
            self._kept[key] = make()
        self._kept.move_to_end(key)
        return self._kept[key]

    def _read(self, skill: Named, prefix: Prefix, start: int, outputs: dict[int, Any]) -> _Kept:
        """Read a prefix, from the last layer on whose output is known and the base's.

        Args:
            skill: that reads it.
            prefix: the tokens.
            start: layers in which it is as the base; what the last of these gives is added to the outputs.
            outputs: of the base, by the number of layers.
        """
        known = max((number for number in outputs if number <= start), default=0)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._mixed.skills([skill]))
            stack.enter_context(skip_layers(self._layers[:known], outputs.get(known)))
            seen = stack.enter_context(keep_output(self._layers[start - 1])) if start else []
            layers = self.decoder.run([prefix], RowCache((0,)))[1].layers
        if start:
            outputs[start] = seen[0]
        return _Kept(layers, outputs) if skill is None else _Kept(layers[start:])

    def _drop(self) -> None:
        """Drop what belongs to patches that are gone, and then what was used least lately, down to the bound."""
        present = {patch for name in self._mixed.names for patch in self._mixed.patches(name)}
        for key in [key for key in self._kept if not present.issuperset(key[0])]:
            del self._kept[key]
        while self._kept and self.n_bytes > self._max_bytes:
            self._kept.popitem(last=False)
