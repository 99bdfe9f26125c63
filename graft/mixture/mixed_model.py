"""MixedModel: one resident base, and the skills that rows of its batches can carry."""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch

from graft.arguments import checked
from graft.errors import ConfigError, PatchMismatchError
from graft.mixture.carried_head import CarriedHead, lacks_head, run_with_heads
from graft.mixture.entries import find_modules
from graft.mixture.row_proof import RowProof
from graft.mixture.rows import Call, RowSkills, Skill
from graft.mixture.sites.choice import make_site
from graft.mixture.sites.site import Site, untraced
from graft.patch.live import PreparedPatch, prepare_patch
from graft.patch.overlap_rules import OverlapRule
from graft.patch.skill_patch import Patch

Named = str | Sequence[str] | None  # what one row asks for: a skill, several together, or none
# models whose layers hold tokens in the first dimension and rows in the second
_TOKENS_FIRST = {"xlnet", "transfo-xl", "fsmt"}


class MixedModel:
    """A model on which every row of a batch can have its own skill.

    The base's weights are never written: what a skill changes is added to the outputs of the modules that it touches,
    in the rows that ask for it. Made by `serve_patches`; one thread at a time may run it.

    Attributes:
        model: the model, resident once.
    """

    def __init__(self, model: torch.nn.Module, on_overlap: OverlapRule, cast: bool, exact: bool) -> None:
        kind = getattr(getattr(model, "config", None), "model_type", None)
        if kind in _TOKENS_FIRST:
            raise PatchMismatchError(f"{kind} keeps tokens before rows: its skills can be grafted, not mixed")
        self.model = model
        self._on_overlap, self._cast = on_overlap, cast
        self._call = Call()
        self._call.exact = exact
        self._patches: dict[str, Patch] = {}
        self._heads: dict[str, CarriedHead] = {}
        self._prepared: dict[Skill, PreparedPatch] = {}
        self._sites: dict[str, Site[Any]] = {}
        self._proof = RowProof(model, self._call)
        self._assigned: weakref.WeakSet[RowSkills] = weakref.WeakSet()
        self._entered: list[RowSkills] = []  # of the blocks that are under way, the innermost last
        self._lock = threading.RLock()
        self._hooks = [hook for part in _callable_parts(model) for hook in self._watch(part)]

    @property
    def names(self) -> list[str]:
        """Names of the skills, in the order in which they were added."""
        return list(self._patches)

    @checked
    def add(self, name: str, patch: Patch) -> None:
        """Add a skill, checked against the base. A head that it brings and the model lacks is kept for `head_logits`.

        Raises:
            ConfigError: there is one of that name, or it is no name.
            PatchMismatchError: the patch does not fit the base, or touches what rows cannot have apart.
        """
        if not name or name in self._patches:
            raise ConfigError(f"there is a skill {name!r} already" if name else "a skill needs a name")
        with self._lock:
            head = CarriedHead(self.model, patch) if lacks_head(self.model, patch) else None
            body = replace(patch, dense={}) if head else patch
            self._load((name,), [body])
            self._patches[name] = body
            if head:
                self._heads[name] = head

    def remove(self, name: str) -> None:
        """Remove a skill, and what was composed with it.

        Raises:
            ConfigError: there is none of that name, or rows carry it at the moment.
        """
        with self._lock:
            self._require(name)
            self._unload([skill for skill in self._prepared if name in skill])
            del self._patches[name]
            self._heads.pop(name, None)

    def forget(self, names: Sequence[str]) -> None:
        """Free what was prepared for several skills together; it is prepared anew where a row asks for them again.

        Raises:
            ConfigError: rows carry them at the moment.
        """
        with self._lock:
            skill = tuple(names)
            self._unload([skill] if len(skill) > 1 and skill in self._prepared else [])

    def assign(self, rows: Sequence[Named]) -> RowSkills:
        """Return what `skills` takes in the place of names, for rows that many blocks have.

        What modules work out for the rows is kept in it and used again. While it exists, none of its skills can be
        removed.

        Raises:
            ConfigError, OverlapError, PatchMismatchError: as `skills`.
        """
        with self._lock:
            assigned = self._find(rows)
            self._assigned.add(assigned)
            return assigned

    @contextlib.contextmanager
    def skills(self, rows: Sequence[Named] | RowSkills, *, exact: bool | None = None) -> Iterator[MixedModel]:
        """Give each row of the batches in this block its skill.

        Args:
            rows: for every row a name, several names (composed by the rule for overlaps), or None for the base. Rows
                that beams or returned sequences multiply keep theirs. Or what `assign` returned.
            exact: whether to compute what is touched anew from the skill's own weights; as `serve_patches` was told
                where absent.

        Raises:
            ConfigError: a name is unknown, or there are no rows.
            OverlapError: skills of one row disagree and the rule is "error".
            PatchMismatchError: the model was cast, moved or got other tensors.
        """
        with self._lock:
            wanted = rows if isinstance(rows, RowSkills) else self._find(rows)
            self._check_place()
            call, before = self._call, (self._call.rows, self._call.exact)
            call.rows, call.exact = wanted, before[1] if exact is None else exact
            self._entered.append(wanted)
            try:
                yield self
            finally:
                self._entered.pop()
                call.rows, call.exact = before

    def head_labels(self, name: str) -> tuple[str, ...] | None:
        """Return the labels of the head that a skill brings, in the order of its logits; None where it brings none.

        Raises:
            ConfigError: there is no such skill.
        """
        self._require(name)
        return tuple(self._heads[name].labels) if name in self._heads else None

    def head_logits(
        self, *, heads: Sequence[str] | None = None, pad_token_id: int | None = None, **batch: Any
    ) -> list[torch.Tensor]:
        """Return the logits of each row by a head that a skill brings, (n_labels,) each, within `skills`.

        The backbone runs once for the whole batch, each row with its own skills.

        Args:
            heads: for every row the skill whose head reads it; absent, the one among the row's that brings a head.
            pad_token_id: the token that pads, after which no head reads; absent, the one that a patch records. What
                the attention mask leaves out is never read.
            batch: the backbone's arguments, by name. Those that it does not know, segments among them, are left out.

        Raises:
            ConfigError: no skills are named, or a skill that is to read a row brings no head, or several do.
            DataError: an encoder-decoder reads the class at the end token, and a row has none.
            CheckpointError: the model cannot be run on this batch.
        """
        if self._call.rows is None:
            raise ConfigError("rows have heads within `skills` alone")
        owners = self._call.rows.skills if heads is None else [self._skill_of(name) for name in heads]
        found = [self._head_of(skill) for skill in owners]
        return run_with_heads(getattr(self.model, "base_model", self.model), found, batch, pad_token_id)

    def _head_of(self, skill: Skill) -> CarriedHead:
        found = [self._heads[name] for name in skill if name in self._heads]
        if len(found) != 1:
            raise ConfigError(
                f"the skill {'+'.join(skill) or 'of the base'!r} brings {len(found) or 'no'} head(s): one is needed"
            )
        return found[0]

    def check_base(self) -> None:
        """Refuse a base that holds other bits at the skills' entries than when they were added.

        Raises:
            PatchMismatchError: it does.
        """
        self._check_place()
        for prepared in self._prepared.values():
            prepared.check_base()

    def touched(self, rows: Named) -> list[str]:
        """Return the names of the modules that a skill touches, in the order of the model."""
        skill = self._skill_of(rows)
        self._ready(skill)
        touched = {name for name, site in self._sites.items() if skill in site.contents}
        return [name for name, _ in self.model.named_modules() if name in touched]

    def patches(self, rows: Named) -> tuple[Patch, ...]:
        """Return the patches that a row carries, to which what is kept of its outputs belongs.

        Raises:
            ConfigError: a name is unknown.
        """
        return tuple(self._patches[name] for name in self._skill_of(rows))

    def close(self) -> None:
        """Take all hooks off, and check the base's bits.

        Raises:
            PatchMismatchError: as `check_base`.
        """
        try:
            self.check_base()
        finally:
            for hook in self._hooks:
                hook.remove()
            for site in self._sites.values():
                site.remove()
            self._hooks, self._sites = [], {}

    def __enter__(self) -> MixedModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _find(self, rows: Sequence[Named]) -> RowSkills:
        found = RowSkills(tuple(self._skill_of(row) for row in rows))
        for skill in set(found.skills):
            self._ready(skill)
        return found

    def _skill_of(self, row: Named) -> Skill:
        names = () if row is None else (row,) if isinstance(row, str) else tuple(row)
        for name in names:
            self._require(name)
        return tuple(dict.fromkeys(names))

    def _require(self, name: str) -> None:
        if name not in self._patches:
            raise ConfigError(f"there is no skill {name!r}; there are: {', '.join(self._patches) or 'none'}")

    def _ready(self, skill: Skill) -> None:
        """Compose the skills of a row where that was not done before."""
        if skill and skill not in self._prepared:
            self._load(skill, [self._patches[name] for name in skill])

    def _check_place(self) -> None:
        for site in self._sites.values():
            if name := site.find_moved():
                raise PatchMismatchError(
                    f"tensor {name!r} was cast, moved or replaced since the skills were added: serve them anew"
                )

    def _load(self, skill: Skill, patches: Sequence[Patch]) -> None:
        prepared = prepare_patch(self.model, *patches, on_overlap=self._on_overlap, cast=self._cast)
        try:
            new = []
            for name, (module, entries) in find_modules(self.model, prepared.writes()).items():
                if name not in self._sites:
                    self._sites[name] = make_site(self.model, name, module, self._call)
                    new.append(self._sites[name])
                    _forget_graphs()
                self._sites[name].contents[skill] = self._sites[name].prepare(entries)
            self._proof.add(new)
        except BaseException:
            self._drop(skill)
            raise
        prepared.forget()  # its views, which are most of its memory
        self._prepared[skill] = prepared

    def _unload(self, skills: Sequence[Skill]) -> None:
        carried = {skill for rows in (*self._assigned, *self._entered) for skill in rows.skills}
        for skill in carried.intersection(skills):
            raise ConfigError(f"rows carry the skill {'+'.join(skill)!r} at the moment")
        for skill in skills:
            self._drop(skill)
            del self._prepared[skill]

    def _drop(self, skill: Skill) -> None:
        for site in self._sites.values():
            site.contents.pop(skill, None)
        for name in [name for name, site in self._sites.items() if not site.contents]:
            self._sites.pop(name).remove()

    def _watch(self, part: torch.nn.Module) -> Iterator[torch.utils.hooks.RemovableHandle]:
        yield part.register_forward_pre_hook(untraced(self._call.enter), with_kwargs=True)
        yield part.register_forward_hook(untraced(self._call.leave), with_kwargs=True, always_call=True)


@checked
def serve_patches(
    model: torch.nn.Module,
    patches: Mapping[str, Patch] | None = None,
    *,
    on_overlap: OverlapRule = "error",
    cast: bool = False,
    exact: bool = False,
) -> MixedModel:
    """Keep one model resident, and give every row of a batch its own skill::

        with graft.serve_patches(model, {"topics": topics, "reviews": reviews}) as mixed:
            with mixed.skills(["topics", None, ["topics", "reviews"]]):
                outputs = model(**batch)

    A patch changes a linear layer's output by the sum of its differences times their inputs, which is added to the
    base's output in the rows that ask for it (as batched LoRA does with its factors, arXiv 2311.03285, 2310.18547). The
    outputs are those of the grafted model but for rounding; with `exact` what a patch touches is computed anew from the
    patch's own weights, which gives the grafted model's bits wherever the platform's products do not depend on how many
    of them are computed together.

    Args:
        model: a model of transformers, or any that keeps rows in the first dimension, with the base's weights.
        patches: by name; more can be added and removed while it runs.
        on_overlap: what to do where the skills of one row want different values.
        cast: as in `apply_patch`.
        exact: as said.

    Raises:
        PatchMismatchError: a patch does not fit the model, or touches what rows cannot have apart.
        ConfigError: a name is empty or there twice.
    """
    mixed = MixedModel(model, on_overlap, cast, exact)
    try:
        for name, patch in (patches or {}).items():
            mixed.add(name, patch)
    except BaseException:
        mixed.close()
        raise
    return mixed


def _callable_parts(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the model and the models within it, which may be called on their own, as `generate` calls an encoder."""
    return [part for part in model.modules() if part is model or hasattr(part, "get_input_embeddings")]


def _forget_graphs() -> None:
    """Drop compiled graphs, which do not notice hooks that come later."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
