"""ContinuousBatch: generations of many skills that join and leave between tokens (as in Orca, Yu et al., OSDI 2022)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import groupby

from graft.errors import ConfigError
from graft.mixture.generation.decoder import Decoder
from graft.mixture.generation.prefix_cache import PrefixCache
from graft.mixture.generation.request import Finish, GenerationRequest, TokenEvent
from graft.mixture.generation.row_cache import RowCache, stack_rows
from graft.mixture.generation.sampling import Sampler, choose_tokens
from graft.mixture.mixed_model import MixedModel
from graft.mixture.rows import RowSkills

MOST_TOKENS = 2**16  # whose keys and values are kept, unless told otherwise


class ContinuousBatch:
    """Rows that generate together, each with its own skill, on one resident model::

        batch = ContinuousBatch(mixed)
        batch.join([GenerationRequest("a", tokens, "topics"), GenerationRequest("b", others, None)])
        while not batch.idle:
            for event in batch.step():
                ...

    A row's likeliest tokens are those that the grafted model generates of it alone, but for rounding. Between steps the
    model is the base, and may be used for other things, by one thread at a time. Skills that rows carry cannot be
    removed.

    Args:
        mixed: the model and its skills.
        max_rows: rows at a time.
        max_tokens: bound of the keys and values that are kept: rows times the tokens of the longest, those that it has
            still to generate among them.
        prefixes: keys and values that many rows start with.

    Raises:
        ConfigError: the model is no decoder whose layers attend to all tokens before.
    """

    def __init__(
        self,
        mixed: MixedModel,
        *,
        max_rows: int = 32,
        max_tokens: int = MOST_TOKENS,
        prefixes: PrefixCache | None = None,
    ) -> None:
        if max_rows < 1 or max_tokens < 1:
            raise ConfigError("a batch needs room for at least one row and one token")
        self._mixed, self._prefixes = mixed, prefixes
        self._decoder = Decoder.of(mixed) if prefixes is None else prefixes.decoder
        self._max_rows, self._max_tokens = max_rows, max_tokens
        self._rows: list[_Row] = []
        self._cache = RowCache()
        self._assigned: RowSkills | None = None  # the rows' skills, and what was worked out for them; None without rows

    @property
    def idle(self) -> bool:
        """Whether there are no rows."""
        return not self._rows

    @property
    def n_rows(self) -> int:
        """Rows that generate at present."""
        return len(self._rows)

    def check(self, request: GenerationRequest) -> None:
        """Refuse a request that could not join an empty batch.

        Raises:
            ConfigError: its skill is unknown, a token is not in the vocabulary, or it is longer than the model or the
                batch can take.
        """
        self._decoder.check(request.tokens, request.max_new_tokens)
        if not self.has_room(request):
            raise ConfigError(f"{request.n_tokens} tokens are more than the {self._max_tokens} that a batch may keep")
        self._mixed.patches(request.skill)

    def has_room(self, request: GenerationRequest) -> bool:
        """Return whether there is room for a request where there are no other rows."""
        return request.n_tokens <= self._max_tokens

    def fits(self, requests: Sequence[GenerationRequest]) -> bool:
        """Return whether there is room for requests beside the rows of the moment."""
        together = [*(row.request for row in self._rows), *requests]
        longest = max((request.n_tokens for request in together), default=0)
        return len(together) <= self._max_rows and len(together) * longest <= self._max_tokens

    def join(self, requests: Sequence[GenerationRequest]) -> None:
        """Read the texts of requests, all but each last token, and let them take part from the next step on.

        Raises:
            ConfigError: one cannot be taken (see `check`), an id is there twice, or there is no room; then none joins.
        """
        ids = [row.request.id for row in self._rows] + [request.id for request in requests]
        if len(set(ids)) < len(ids):
            raise ConfigError("two requests have the same id")
        for request in requests:
            self.check(request)
        if not self.fits(requests):
            raise ConfigError(f"there is no room for {len(requests)} requests beside {len(self._rows)} rows")
        texts = sorted((_Text(request, self._look_up(request)) for request in requests), key=_Text.order)
        caches = [self._read(list(group)) for _, group in groupby(texts, key=_Text.size)]
        new = [_Row(text.request) for text in texts]
        self._change_rows([*self._rows, *new], stack_rows([self._cache, *caches]))

    def step(self) -> list[TokenEvent]:
        """Generate one token for every row; rows that are done with it leave, and those whose outputs are not finite.

        An error, such as memory that is short, leaves all rows as they were.
        """
        if self._assigned is None:
            return []
        with self._mixed.skills(self._assigned):
            logits, cache = self._decoder.run([[row.last] for row in self._rows], self._cache)
        tokens = choose_tokens(logits, [row.sampler for row in self._rows])
        self._cache = cache
        events = [row.accept(token) for row, token in zip(self._rows, tokens, strict=True)]
        self._keep([place for place, event in enumerate(events) if event.finished is None])
        return events

    def cancel(self, id: Hashable) -> None:
        """Let a request leave, where it is there still."""
        self._keep([place for place, row in enumerate(self._rows) if row.request.id != id])

    def close(self) -> None:
        """Let all requests leave."""
        self._keep([])

    def _keep(self, places: Sequence[int]) -> None:
        if len(places) < len(self._rows):
            self._change_rows([self._rows[place] for place in places], self._cache.select(places))

    def _change_rows(self, rows: list[_Row], cache: RowCache) -> None:
        self._assigned = self._mixed.assign([row.request.skill for row in rows]) if rows else None
        self._rows, self._cache = rows, cache

    def _look_up(self, request: GenerationRequest) -> RowCache:
        if self._prefixes is None:
            return RowCache((0,))
        return self._prefixes.fetch(request.skill, self._prefixes.match(request.tokens[:-1]))

    def _read(self, texts: Sequence[_Text]) -> RowCache:
        """Read what is not in the texts' prefixes, as many tokens of each, so that no padding is within a row."""
        width = max(text.n_unread for text in texts)
        past = stack_rows([text.prefix.first(max(len(text.tokens) - width, 0)) for text in texts])
        if not width:
            return past
        with self._mixed.skills([text.request.skill for text in texts]):
            return self._decoder.run([text.tokens[-width:] for text in texts], past)[1]


class _Text:
    """What is read of a request before it generates: its tokens but the last, which the first step reads.

    Args:
        request: the request.
        prefix: keys and values that it starts with.
    """

    def __init__(self, request: GenerationRequest, prefix: RowCache) -> None:
        self.request, self.prefix = request, prefix
        self.tokens = request.tokens[:-1]
        self.n_unread = len(self.tokens) - prefix.width

    def size(self) -> int:
        """Return the power of two above the tokens to read: texts of one are read together, padded to twice at most."""
        return self.n_unread.bit_length()

    def order(self) -> tuple[int, str]:
        """Return where it stands among others that join: sizes together, and in them skills."""
        return self.size(), str(self.request.skill)


class _Row:
    """A request that generates.

    Args:
        request: the request.

    Attributes:
        last: the last token, which the model has not read yet.
        sampler: of its tokens.
    """

    def __init__(self, request: GenerationRequest) -> None:
        self.request, self.last = request, request.tokens[-1]
        self.sampler = Sampler(request.temperature, request.top_p, request.seed)
        self._n_new = 0
        self._stops = frozenset(request.stop_tokens)

    def accept(self, token: int | None) -> TokenEvent:
        """Take the next token, None where there is none."""
        if token is None:
            return TokenEvent(self.request.id, -1, "not_finite")
        self.last, self._n_new = token, self._n_new + 1
        finished: Finish | None = None
        if token in self._stops:
            finished = "stop"
        elif self._n_new == self.request.max_new_tokens:
            finished = "length"
        return TokenEvent(self.request.id, token, finished)
