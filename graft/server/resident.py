"""Resident: the model, its tokenizer, its skills and the heads that read their labels. One thread at a time uses it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import torch

from graft.errors import ConfigError
from graft.mixture.mixed_model import MixedModel, serve_patches
from graft.mixture.routing.router import Router
from graft.patch.overlap_rules import OverlapRule
from graft.server.carried import CarriedClassifier
from graft.server.limits import Limits
from graft.server.own_rows import OwnRows
from graft.server.refusal import Refusal, refuse_unknown_model
from graft.server.skill import Skill, require_name
from graft.sources.opening import Model, open_model
from graft.specs.data import DataSpec
from graft.specs.head import HeadSpec
from graft.specs.runtime import DEFAULT, Runtime
from graft.specs.task import TaskSpec
from graft.tasks.head import Head, open_head
from graft.tasks.heads.classifier import ClassifierHead
from graft.tasks.heads.similarity import SimilarityHead
from graft.tasks.label_order import has_head, rows_in
from graft.tasks.language_model import family_of
from graft.tasks.sharing import share_model

Names = tuple[str, ...]  # the skills of one row; () for the base
BASE, AUTO = "base", "auto"  # what a request names for no skill, and for the router's choice
_NO_DATA = DataSpec("none", "none", "none")
_UNLIMITED = 2**31
MOST_TOGETHER, MOST_COMPOSED = 4, 64  # skills of one row; sets of skills that are kept prepared


class Resident:
    """One base in memory, and everything that is served over it.

    Attributes:
        base: the base's name.
        head: the one that the model was opened by.
        mixed: the model with its skills.
        embedding: mean-pools and normalizes the states of texts.
        skills: by name.
        leaving: names of skills that are about to be removed: what carries them is finished, nothing more begins.
        limits: how many skills there may be, among others.
        why_silent: why the model does not write on; None where it does.
        router: chooses the skills of requests that name none; None without one.
        note_pass: called with the number of rows before every pass of the model over texts, which an error stops.
    """

    def __init__(
        self, base: str, head: Head, family: str | None, mixed: MixedModel, limits: Limits, own: OwnRows | None = None
    ) -> None:
        self.base, self.head, self.mixed, self.limits = base, head, mixed, limits
        self._family, self._own = family, own
        writes = family == "causal" and self._output_layer is not None
        self.why_silent = None if writes else f"{base} is no causal language model: it does not write"
        spec = TaskSpec("embedding", _NO_DATA, head=HeadSpec(), labels=("a", "b"), max_length=_UNLIMITED)
        self.embedding = SimilarityHead(_inner(head.model), head.tokenizer, spec)
        self.skills: dict[str, Skill] = {}
        self.leaving: set[str] = set()
        self.router: Router | None = None
        self._heads: dict[str, Head] = {}
        self._changes_output = False
        self._composed: dict[Names, None] = {}  # the least recently used first
        self.note_pass: Callable[[int], Any] = lambda n_rows: None

    @property
    def _output_layer(self) -> Any:
        """The layer that predicts words; None where the model was loaded without one, whatever its folder holds."""
        return None if self._family is None else self.head.model.get_output_embeddings()

    @property
    def names(self) -> list[str]:
        """What a request may name as its model, compositions aside."""
        return [BASE, *(name for name in list(self.skills) if name not in self.leaving)]

    def offers(self, name: str) -> bool:
        """Return whether requests may have a skill: it is there, and not about to be removed."""
        return name in self.skills and name not in self.leaving

    def find(self, model: str) -> Names:
        """Return the skills that a request's `model` means: none for the base, several for "a+b".

        Raises:
            Refusal: there is none of that name.
        """
        if model in (BASE, self.base):
            return ()
        names = tuple(dict.fromkeys(model.split("+")))
        if len(names) > MOST_TOGETHER:
            raise Refusal(400, f"{len(names)} skills together are more than {MOST_TOGETHER}")
        for name in names:
            if not self.offers(name):
                raise refuse_unknown_model(name, self.names)
        return names

    @contextlib.contextmanager
    def passing(self, rows: Sequence[Names]) -> Iterator[None]:
        """Let the model read a batch within the block, each row with its own skills."""
        self.note_pass(len(rows))
        with self.mixed.skills(rows):
            yield

    def prepare(self, names: Names) -> None:
        """Compose a row's skills, where that was not done before.

        Raises:
            OverlapError: they disagree, and the rule for overlaps refuses that.
            Refusal: one of them is gone, since the request was read.
        """
        for name in names:
            if name not in self.skills:
                raise refuse_unknown_model(name, self.names)
        with self.mixed.skills([names]):
            pass
        if len(names) > 1:
            self._composed.pop(names, None)
            self._composed[names] = None

    def forget_composed(self, carried: Collection[Names]) -> None:
        """Free what was composed longest ago, beyond `MOST_COMPOSED`; not what rows carry at the moment."""
        idle = [names for names in self._composed if names not in carried]
        for names in idle[: max(0, len(self._composed) - MOST_COMPOSED)]:
            del self._composed[names]
            self.mixed.forget(names)

    def add(self, skill: Skill) -> Skill:
        """Add a skill, checked against the base; return it as it is served.

        Raises:
            Refusal: there are as many as may be, or one of that name.
            ConfigError, PatchMismatchError: the name or the patch does not fit.
        """
        if skill.name == self.base or skill.name in self.skills:
            raise Refusal(409, f"there is a skill {skill.name!r} already", code="exists")
        if len(self.skills) >= self.limits.skills:
            raise Refusal(409, f"there are {len(self.skills):,} skills already, and no more may be resident")
        require_name(skill.name)
        self.mixed.add(skill.name, skill.patch)
        self.skills[skill.name] = served = self._with_head(skill)
        self._note_output_layer(skill.name)
        if self._own is not None:
            head = self._heads.get(skill.name)
            self._own.note(self.mixed, skill, head if isinstance(head, ClassifierHead) else None)
        return served

    def remove(self, name: str) -> None:
        """Remove a skill.

        Raises:
            ConfigError: rows carry it at the moment, or there is none.
        """
        self.mixed.remove(name)
        if self.router is not None and name in self.router.names:
            self.router.remove(name)
        self.skills.pop(name, None)
        self._heads.pop(name, None)
        if self._own is not None:
            self._own.forget(name)
        self._composed = {names: None for names in self._composed if name not in names}

    def head_of(self, name: str) -> Head:
        """Return the head that reads a skill's labels.

        Raises:
            Refusal: it has none; the line says why.
        """
        if name not in self.skills:
            raise refuse_unknown_model(name, self.names)
        if name not in self._heads:
            raise Refusal(422, f"skill {name!r} has no labels to read: {self.skills[name].why_no_task}", code="no_head")
        return self._heads[name]

    def require_labels(self, skills: Names, task: str) -> None:
        """Refuse a row whose skills make the layer that a task's labels are read off one of other labels.

        Raises:
            Refusal: they do, or there is no such task.
        """
        head = self.head_of(task)
        if self._own is not None and isinstance(head, ClassifierHead):
            self._own.require(skills, task, head)

    def _note_output_layer(self, name: str) -> None:
        """Let verbalizers run the output layer whole from when on a skill changes it, which has its rows apart."""
        output = self._output_layer
        if output is None:
            return
        layers = dict(self.head.model.named_modules())
        if any(layers[touched] is output for touched in self.mixed.touched(name)):
            self._changes_output = True
        for head in self._heads.values():
            if self._changes_output and hasattr(head, "runs_whole"):
                head.runs_whole = True

    def _with_head(self, skill: Skill) -> Skill:
        if skill.task is None:
            return skill
        try:
            self._heads[skill.name] = self._make_head(skill, skill.task)
        except Exception as error:  # of many kinds: a stranger's task may ask for anything of a tokenizer
            why = " ".join(str(error).split())[:300]
            return dataclasses.replace(skill, task=None, why_no_task=why)
        return skill

    def _make_head(self, skill: Skill, spec: TaskSpec) -> Head:
        kind, model, tokenizer = spec.head.kind, self.head.model, self.head.tokenizer
        if kind == "similarity":
            return SimilarityHead(_inner(model), tokenizer, spec)
        if kind == "verbalizer" and self._output_layer is not None:
            from graft.tasks.heads.verbalizer import VerbalizerHead

            head = VerbalizerHead(model, tokenizer, spec, self._family)  # type: ignore[arg-type]
            head.shares_prefix = False  # a prefix is read once for all rows, and these have their own skills
            return head
        if kind == "classifier" and self.mixed.head_labels(skill.name) is not None:
            return CarriedClassifier(self.mixed, tokenizer, spec, skill.name)
        if kind == "classifier" and self._own is not None:
            return ClassifierHead(model, tokenizer, spec, self._own.find(skill, spec))
        if kind != self.head.task.head.kind:
            raise ConfigError(f"labels of a {kind} head are read only where the server was opened with one")
        return share_model(self.head, spec)


def open_resident(
    model: Model,
    skills: Iterable[Skill] = (),
    *,
    on_overlap: OverlapRule = "error",
    exact: bool = False,
    runtime: Runtime = DEFAULT,
    limits: Limits | None = None,
) -> Resident:
    """Load a base once, and add skills to it.

    The model is loaded with the head that the skills' tasks need: its own classification layer, or that of a language
    model. Classification layers that patches bring are kept beside it.

    Raises:
        CheckpointError: the base cannot be loaded.
        PatchMismatchError, ConfigError, Refusal: as `Resident.add`.
    """
    skills = list(skills)
    opened = open_model(model)
    family = family_of(opened.located.path)
    spec, patches = _opening(skills, family, brings_head=not has_head(opened.located.path))
    head = open_head(opened.checkpoint, spec, runtime, seed=spec.seed, rows=rows_in(patches, spec))
    mixed = serve_patches(head.model, on_overlap=on_overlap, exact=exact)
    own = OwnRows(opened.located.path, head.model) if isinstance(head, ClassifierHead) else None
    name = opened.located.id or opened.located.name
    resident = Resident(name, head, family, mixed, limits or Limits(), own)
    for skill in skills:
        resident.add(skill)
    return resident


def _opening(skills: Sequence[Skill], family: str | None, *, brings_head: bool) -> tuple[TaskSpec, list[Any]]:
    """Return the task that the model is opened for, and the patches whose labels its own layer may have."""
    tasks = [(skill.task, [skill.patch]) for skill in skills if skill.task is not None]
    tasks.sort(key=lambda item: item[0].head.entry.own_layer is None)  # a layer of its own first
    for task, patches in tasks:
        if task.head.kind != "similarity" and not (brings_head and task.head.entry.own_layer):
            return task, patches
    if family == "causal":
        return TaskSpec("resident", _NO_DATA, head=HeadSpec("lm"), max_length=_UNLIMITED), []
    return TaskSpec("resident", _NO_DATA, labels=("a", "b"), max_length=_UNLIMITED), []


def _inner(model: torch.nn.Module) -> Any:
    """Return the model without the layer on top of it, which states of texts are taken from."""
    return getattr(model, "base_model", model)
