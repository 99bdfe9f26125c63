"""Router: requests that name no skill, each sent to the skill whose texts it is like, or to none."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch

from graft.arguments import checked
from graft.errors import ConfigError, MismatchError
from graft.mixture.routing.reference import PROBE, SkillReference
from graft.mixture.routing.text_embedder import Embed

_SAME_BASE = 0.995  # cosine of the probe's vectors; rounding to bfloat16 leaves more


class Router:
    """The skills that a request can be sent to, by what each skill's own texts look like to the base.

    One pass of the base over a request serves all skills. A text is likest to the skill under which its density is
    highest, which is Bayes's choice where all skills are asked for as often. It is sent there where the density reaches
    the skill's own threshold, and to none otherwise. A density depends on one skill alone: adding or removing others
    changes none, and neither does their order.

    Attributes:
        embed: texts -> (n, width) fp32 unit vectors on the CPU, such as a `TextEmbedder`.
    """

    @checked
    def __init__(self, embed: Embed, references: Mapping[str, SkillReference] | None = None) -> None:
        """Make a router; skills can be added and removed while it is used.

        Raises:
            ConfigError, MismatchError: as `add`.
        """
        self.embed = embed
        self._probe = embed([PROBE])[0]
        self._references: dict[str, SkillReference] = {}
        for name, reference in (references or {}).items():
            self.add(name, reference)

    @property
    def names(self) -> list[str]:
        """Names of the skills, sorted: the columns of `scores`."""
        return list(self._references)

    @checked
    def add(self, name: str, reference: SkillReference) -> None:
        """Add a skill.

        Raises:
            ConfigError: there is one of that name, or it is no name.
            MismatchError: the reference is of another base.
        """
        if not name or name in self._references:
            raise ConfigError(f"the router has a skill {name!r} already" if name else "a skill needs a name")
        if reference.probe.shape != self._probe.shape or float(reference.probe @ self._probe) < _SAME_BASE:
            raise MismatchError(f"the reference of the skill {name!r} is of another base: learn it on this one")
        # a new table in place of the old one, since a choice may be under way in another thread
        self._references = dict(sorted({**self._references, name: reference}.items()))

    def remove(self, name: str) -> None:
        """Remove a skill.

        Raises:
            ConfigError: there is none of that name.
        """
        if name not in self._references:
            raise ConfigError(f"the router has no skill {name!r}; it has: {', '.join(self._references) or 'none'}")
        self._references = {key: value for key, value in self._references.items() if key != name}

    @property
    def thresholds(self) -> torch.Tensor:
        """(n_skills,) fp64, the scores from which on each skill accepts, in the order of `names`."""
        return _thresholds(self._references)

    def scores(self, texts: Sequence[str]) -> torch.Tensor:
        """Return (n, n_skills) fp64: each skill's log density at the texts, nats but for a constant.

        Raises:
            DataError: a text has no token.
        """
        return _score(self.embed(texts), self._references)

    def choose(self, texts: Sequence[str], *, without: Collection[str] = ()) -> list[str | None]:
        """Return for each text the name of its skill, or None where the likest skill does not accept it.

        Skills of the same score are told apart by their names.

        Args:
            texts: any number.
            without: names of skills that are not to be chosen, as if they had been removed; others are no matter.

        Raises:
            DataError: a text has no token.
        """
        references = {name: known for name, known in self._references.items() if name not in without}
        if not texts or not references:
            return [None] * len(texts)
        best, columns = _score(self.embed(texts), references).max(1)
        accepted = best >= _thresholds(references)[columns]
        names = list(references)
        return [names[i] if is_own else None for is_own, i in zip(accepted.tolist(), columns.tolist(), strict=True)]


def _score(embedded: torch.Tensor, references: Mapping[str, SkillReference]) -> torch.Tensor:
    columns = [reference.score(embedded) for reference in references.values()]
    return torch.stack(columns, dim=1) if columns else torch.empty(len(embedded), 0, dtype=torch.float64)


def _thresholds(references: Mapping[str, SkillReference]) -> torch.Tensor:
    return torch.tensor([reference.threshold for reference in references.values()], dtype=torch.float64)
