"""Rules that match the tensor names of base, tuned and live models.

Order of the rules (contract, section 4): exact; with or without the architecture's `base_model_prefix`;
transformers' own renaming on loading; the names of wrappers, such as `module.`, `_orig_mod.` and PEFT's
`base_model.model.`. The first rule that matches a name decides; two matches by one rule are ambiguous and refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

from graft.errors import MismatchError

# what data parallelism, compilation, FSDP, activation checkpointing and PEFT's layers put into a name
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer"})
_PEFT = "base_model.model."  # what PEFT puts before all names


@dataclass(frozen=True)
class NameMatch:
    """The available name for each wanted one, and the names without a counterpart."""

    found: dict[str, str]  # wanted -> available
    missing: tuple[str, ...]  # wanted, not available
    unused: tuple[str, ...]  # available, not wanted


@dataclass(frozen=True)
class NameMap:
    """An architecture's rules for tensor names; by default nothing, so that only equal and wrapped names match.

    Attributes:
        prefix: its base_model_prefix, without the dot; "" where there is none.
        rename: the renaming that transformers applies when it loads a checkpoint.
    """

    prefix: str = ""
    rename: Callable[[str], str] = str

    def match(self, wanted: Iterable[str], available: Iterable[str]) -> NameMatch:
        """Match every wanted name to at most one available name.

        Raises:
            MismatchError: one name could stand for two, or two for one.
        """
        wanted, available, rename = list(wanted), list(available), self.rename
        forms: tuple[_Form, ...] = (str, rename, lambda name: rename(unwrap_name(name)))
        table_of = cache(lambda form: _table(available, form))  # most names are found as they stand
        names: dict[str, str] = {}
        owners: dict[str, str] = {}
        for name in wanted:
            match = _find_match(name, forms, table_of, self.prefix)
            if match is None:
                continue
            if match in owners:
                raise MismatchError(f"{owners[match]!r} and {name!r} both match the tensor {match!r}: ambiguous")
            names[name], owners[match] = match, name
        missing = tuple(name for name in wanted if name not in names)
        return NameMatch(names, missing, tuple(name for name in available if name not in owners))


def unwrap_name(name: str) -> str:
    """Return the name without the parts that wrappers put into it: data parallelism, compilation, FSDP, PEFT."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS).removeprefix(_PEFT)


_Form = Callable[[str], str]
_Table = dict[str, list[str]]


def _table(names: Iterable[str], form: _Form) -> _Table:
    table: _Table = {}
    for name in names:
        table.setdefault(form(name), []).append(name)
    return table


def _find_match(name: str, forms: Iterable[_Form], table_of: Callable[[_Form], _Table], prefix: str) -> str | None:
    for form in forms:
        key, table = form(name), table_of(form)
        for candidates in ([key], _other_prefixes(key, prefix)):
            hits = [hit for candidate in candidates for hit in table.get(candidate, ())]
            if len(hits) > 1:
                raise MismatchError(f"tensor {name!r} could be {' or '.join(map(repr, hits))}: ambiguous")
            if hits:
                return hits[0]
    return None


def _other_prefixes(name: str, prefix: str) -> list[str]:
    if not prefix:
        return []
    stripped = name.removeprefix(f"{prefix}.")
    return [f"{prefix}.{name}"] + ([stripped] if stripped != name else [])
