"""Provenance: the part of a patch file that explains the patch, and that applying it does not need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graft.files.header import quote
from graft.files.location import Located
from graft.specs.localize import LINES
from graft.specs.reader import to_plain
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.growth import Growth
from graft.tensors.hashing import digest_of
from graft.tensors.scope import Scope
from graft.version import __version__

TOOL = f"skillgraft {__version__}"
CUT = "tuned"  # values that were copied from the tuned checkpoint


@dataclass(frozen=True)
class BaseIdentity:
    """The base checkpoint that a patch belongs to.

    Attributes:
        id: its Hub id, None where it has none.
        revision: 40 hex digits where there is one.
        name: the folder's name, never its path.
        digest: SHA-256 over all base tensors (`graft.tensors.hashing.digest_of`).
        n_parameters: number of weights N, tied ones once, buffers not.
    """

    id: str | None = None
    revision: str | None = None
    name: str | None = None
    digest: str | None = None
    n_parameters: int = 0


@dataclass(frozen=True)
class Provenance:
    """The origin of a patch. No absolute path, user name, host name or time belongs here.

    Attributes:
        base: the base checkpoint.
        tied: groups of base names that share one storage.
        scope: name of the scope in which the entries could lie, and `n_maskable` its number of weights.
        method: name and full configuration of what chose the entries.
        task: name, head, labels and longest input of the task, where there was one.
        metrics: measured results with n and intervals.
        tokenizer: SHA-256 of the tokenizer's file.
        licence: of the patch, where its author states one.
        tool: name and version of what wrote the patch.
        grown: name -> the rows that the tuned vocabulary added to a tensor, whose values are whole tensors.
        buffers: names of the tensors with entries that are no parameters: these count in no density.
        values: "tuned", cut out of the tuned checkpoint; "refit", fitted to its outputs; or "mixed", both, in a
            composition.
        refit: of refit values the tuned checkpoint's digest (`teacher`), the texts, and what was measured on the way.
        result: SHA-256 over all tensors that the base and this patch alone give, where it was computed.
    """

    base: BaseIdentity = field(default_factory=BaseIdentity)
    tied: tuple[tuple[str, ...], ...] = ()
    scope: str | None = None
    n_maskable: int = 0
    method: Mapping[str, Any] = field(default_factory=dict)
    task: Mapping[str, Any] | None = None
    metrics: Mapping[str, Any] | None = None
    tokenizer: str | None = None
    licence: str | None = None
    tool: str | None = None
    grown: Mapping[str, Growth] = field(default_factory=dict)
    buffers: tuple[str, ...] = ()
    values: str = CUT
    refit: Mapping[str, Any] = field(default_factory=dict)
    result: str | None = None

    @property
    def has_lines(self) -> bool:
        """Whether whole rows or columns were chosen, which a file then names once each."""
        return self.method.get("structure") in LINES

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the file: all keys of the base, and of the rare keys those that hold something."""
        plain = {**to_plain(self), "base": dict(vars(self.base))}
        rows = {name: {"from": item.start, "tokens": list(item.tokens)} for name, item in self.grown.items()}
        rare: dict[str, Any] = {"grown": rows, "buffers": list(self.buffers), "refit": dict(self.refit)}
        rare |= {"values": self.values if self.values != CUT else None, "result": self.result}
        return {key: value for key, value in plain.items() if key not in rare} | {k: v for k, v in rare.items() if v}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Provenance:
        """Read from a file's JSON; unknown keys are ignored.

        Raises:
            ValueError: a known key holds the wrong kind of value.
        """
        base = value.get("base", {})
        if not isinstance(base, dict):
            raise ValueError("'base' is not an object")
        for key, kind in _KINDS.items():
            if value.get(key) is not None and not isinstance(value[key], kind):
                raise ValueError(f"{key!r} is not {kind.__name__}")
        return cls(
            base=_identity(base),
            tied=tuple(tuple(map(str, group)) for group in value.get("tied") or () if isinstance(group, list)),
            n_maskable=_count(value.get("n_maskable", 0), "n_maskable"),
            method=value.get("method") or {},
            grown=_grown(value.get("grown") or {}),
            buffers=tuple(map(str, value.get("buffers") or ())),
            values=value.get("values") or CUT,
            refit=value.get("refit") or {},
            **{key: value.get(key) for key in ("scope", "task", "metrics", "tokenizer", "licence", "tool", "result")},
        )


def trace_provenance(
    base: Located,
    checkpoint: Checkpoint,
    scope: Scope,
    method: Mapping[str, Any],
    *,
    task: Mapping[str, Any] | None = None,
    tokenizer: str | None = None,
) -> Provenance:
    """Make the provenance of entries that a method chose in a base.

    Args:
        base: where the base was found.
        checkpoint: the same, opened; all of its tensors are read for its digest.
        scope: where the entries could lie.
        method: name and full configuration of what chose them.
        task, tokenizer: as in `Provenance`.

    Raises:
        ConfigError: the scope holds no tensor of the base.
    """
    return Provenance(
        base=BaseIdentity(base.id, base.revision, base.name, digest_of(checkpoint), checkpoint.n_parameters),
        tied=tuple(tuple(sorted(group)) for group in checkpoint.tied),
        scope=scope.name,
        n_maskable=sum(checkpoint.spec(name).numel for name in scope.names(checkpoint)),
        method=method,
        task=task,
        tokenizer=tokenizer,
        tool=TOOL,
    )


_KINDS = {"tied": list, "grown": dict, "buffers": list, "scope": str, "method": dict, "task": dict, "metrics": dict}
_KINDS |= {"tokenizer": str, "licence": str, "tool": str, "result": str, "values": str, "refit": dict}


def _identity(value: Mapping[str, Any]) -> BaseIdentity:
    texts = {key: value.get(key) for key in ("id", "revision", "name", "digest")}
    for key, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise ValueError(f"'base.{key}' is not a text")
    return BaseIdentity(**texts, n_parameters=_count(value.get("n_parameters", 0), "base.n_parameters"))


def _grown(value: Mapping[str, Any]) -> dict[str, Growth]:
    growths = {}
    for name, item in value.items():
        tokens = item.get("tokens", []) if isinstance(item, dict) else None
        if not isinstance(tokens, list) or not all(token is None or isinstance(token, str) for token in tokens):
            raise ValueError(f"'grown' tells of {quote(name)} no rows and tokens")
        growths[name] = Growth(_count(item.get("from"), "grown.from"), tuple(tokens))
    return growths


def _count(value: Any, key: str) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{key!r} is not a count")
    return value
