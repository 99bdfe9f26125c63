"""Which rows of a batch carry which skill, and where they lie in what a module is given."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any

import torch

from graft.errors import ConfigError

Skill = tuple[str, ...]  # the names of the patches that a row carries together; () for none


@dataclass(frozen=True)
class Run:
    """Consecutive rows that carry one skill.

    Attributes:
        start, stop: of the rows.
        skill: theirs.
    """

    start: int
    stop: int
    skill: Skill

    @property
    def rows(self) -> slice:
        """The rows, as an index."""
        return slice(self.start, self.stop)


@dataclass(eq=False)
class RowSkills:
    """The skills of the rows that a caller has, which beams and returned sequences multiply.

    Attributes:
        skills: one a row.
        cache: what modules work out for these rows once and use at every call.
    """

    skills: tuple[Skill, ...]
    cache: dict[Any, Any] = field(default_factory=dict)

    @cached_property
    def mixed(self) -> bool:
        """Whether two rows differ in their skill; where none do it does not matter which row is which."""
        return len(set(self.skills)) > 1

    def runs(self, n_rows: int) -> tuple[Run, ...]:
        """Return the runs of a batch of so many rows: each of the caller's rows repeated in place, as `generate` does.

        Raises:
            ConfigError: the batch has another number of rows.
        """
        if ("runs", n_rows) not in self.cache:
            self.cache["runs", n_rows] = tuple(self._runs(n_rows))
        runs: tuple[Run, ...] = self.cache["runs", n_rows]
        return runs

    def _runs(self, n_rows: int) -> Iterator[Run]:
        if not self.skills or n_rows % len(self.skills):
            raise ConfigError(f"the batch has {n_rows} rows, but skills were named for {len(self.skills)}")
        repeats, start = n_rows // len(self.skills), 0
        for skill, rows in groupby(self.skills):
            stop = start + repeats * len(list(rows))
            if skill:
                yield Run(start, stop, skill)
            start = stop


@dataclass(eq=False)
class Disturbance:
    """Noise in one row of what some sites give, which shows whether what they give for a row stays in that row.

    Attributes:
        row: the row that gets noise.
        sites: that get it.
        called: sites that were called.
    """

    row: int
    sites: frozenset[Any]
    called: set[Any] = field(default_factory=set)


class Call:
    """What is known of the forward pass that is under way.

    Attributes:
        rows: the skills that are asked for; None where none are, and every row gets the base.
        exact: whether what a patch touches is computed anew from the patch's own weights.
        n_rows: rows of the batch; 0 outside a forward pass.
        n_tokens: how many a row has, in the model and in the models within it.
        disturbance: noise instead of skills; None but where it is found out how sites keep rows apart.
        before_mixed: called with a model and its arguments before a batch of rows whose skills differ.
    """

    def __init__(self) -> None:
        self.rows: RowSkills | None = None
        self.exact = False
        self.n_rows = 0
        self.n_tokens: set[int] = set()
        self.disturbance: Disturbance | None = None
        self.before_mixed: Callable[[torch.nn.Module, tuple[Any, ...], dict[str, Any]], None] | None = None
        self._depth = 0

    @property
    def tells_rows_apart(self) -> bool:
        """Whether it matters which row is which."""
        return self.disturbance is not None or (self.rows is not None and self.rows.mixed)

    def enter(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the batch, before the outermost of the models whose hook this is."""
        self._depth += 1
        if self.rows is None:
            return
        if self._depth == 1:
            self.n_rows, self.n_tokens = count_rows(args, kwargs), set()
            try:
                self.rows.runs(self.n_rows)
                if self.before_mixed is not None and self.disturbance is None and self.rows.mixed:
                    self.before_mixed(module, args, kwargs)
            except BaseException:
                self._depth = 0  # a hook that fails before the call is not followed by the one after it
                raise
        self.n_tokens |= count_tokens(args, kwargs)

    def leave(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        """Forget it, after the outermost."""
        self._depth = max(self._depth - 1, 0)
        if not self._depth:
            self.n_rows = 0

    @contextlib.contextmanager
    def disturbed(self, disturbance: Disturbance, n_rows: int) -> Iterator[None]:
        """Have a model called with noise in the place of skills, for a while and whatever is under way."""
        before = self.rows, self.n_rows, self.n_tokens, self.disturbance, self._depth
        self.rows, self.n_rows, self.n_tokens = RowSkills(((),) * n_rows), 0, set()
        self.disturbance, self._depth = disturbance, 0
        try:
            yield
        finally:
            self.rows, self.n_rows, self.n_tokens, self.disturbance, self._depth = before

    @contextlib.contextmanager
    def alone(self, run: Run) -> Iterator[None]:
        """Go on for a while as if the rows of a run were the whole batch."""
        before = self.rows, self.n_rows
        self.rows, self.n_rows = RowSkills((run.skill,)), run.stop - run.start
        try:
            yield
        finally:
            self.rows, self.n_rows = before

    def runs(self) -> tuple[Run, ...]:
        """Return the runs of the batch under way.

        Raises:
            ConfigError: no model that was told of the batch is running.
        """
        if self.rows is None:
            return ()
        if not self.n_rows:
            raise ConfigError("a part of the model was called alone: rows keep to their skills in a call of the model")
        return self.rows.runs(self.n_rows)


_TOKENS = ("input_ids", "inputs_embeds", "decoder_input_ids", "decoder_inputs_embeds")
_BATCHES = (*_TOKENS, "pixel_values", "input_features", "input_values")


def count_rows(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Count the rows of a model's arguments: the first dimension of its inputs.

    Raises:
        ConfigError: none of them is a tensor with rows.
    """
    named = (kwargs.get(key) for key in _BATCHES)
    for value in (*args, *named, *kwargs.values()):
        if isinstance(value, torch.Tensor) and value.dim():
            return value.shape[0]
    raise ConfigError("the model was called without a tensor that has rows")


def count_tokens(args: tuple[Any, ...], kwargs: dict[str, Any]) -> set[int]:
    """Count the tokens that a row has in a model's arguments: the second dimension of its inputs."""
    values = (*args, *(kwargs.get(key) for key in _TOKENS))
    return {value.shape[1] for value in values if isinstance(value, torch.Tensor) and value.dim() > 1}


def has_pictures_beside_tokens(kwargs: dict[str, Any]) -> bool:
    """Return whether a model gets pictures or sound beside tokens, of which a row may have any number."""
    given = [key for key, value in kwargs.items() if value is not None]
    tokens = any(key in ("input_ids", "inputs_embeds") for key in given)
    return tokens and any(
        key.startswith(("pixel", "image", "video", "audio", "input_", "speech")) for key in given if key not in _TOKENS
    )
