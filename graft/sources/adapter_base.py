"""The base that an adapter's config names: find it, and check a given one against it."""

from __future__ import annotations

from graft.errors import CheckpointError, MismatchError
from graft.files.header import quote
from graft.files.location import Located, is_on_hub, locate, locate_here
from graft.sources.adapters.peft_adapter import Adapter
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import same_bits
from graft.tensors.pair import CheckpointPair


def find_base(adapter: Adapter) -> Located:
    """Find the base that an adapter's config names, on this machine or on the Hub.

    Raises:
        CheckpointError: the config names none, or it cannot be had.
    """
    named = _name_in(adapter)
    if named is None:
        raise CheckpointError(f"{adapter.where}: its config names no base: name it (--base)")
    try:
        return locate(named)
    except CheckpointError as error:
        raise CheckpointError(
            f"{adapter.where}: an adapter of the base {quote(named)}, which cannot be found: name it (--base); {error}"
        ) from error


def check_base(adapter: Adapter, located: Located, base: Checkpoint) -> str | None:
    """Check a base against the one that an adapter's config names.

    Returns:
        A sentence on what could not be checked; None where the named base is this one, in name or in values.

    Raises:
        MismatchError: the named base is at hand, and has other weights; the first is named.
    """
    named = _name_in(adapter)
    if named is None:
        return f"{located.name}: taken for the adapter's base by names and shapes alone, since its config names none"
    if located.id is not None and named in (located.id, f"{located.id}@{located.revision}"):
        return None
    here = locate_here(named)
    if here is None:
        return (
            f"the adapter's config names the base {quote(named)}, which is not at hand: that it is {located.name} was "
            "checked by names and shapes alone"
        )
    if here.path.resolve() != base.path.resolve():
        _refuse_other(adapter, named, Checkpoint.open(here.path), base)
    return None


def _name_in(adapter: Adapter) -> str | None:
    """Return the base's name, with the revision behind a Hub id."""
    named, revision = (adapter.config.get(key) for key in ("base_model_name_or_path", "revision"))
    if not isinstance(named, str) or not named:
        return None
    try:
        return f"{named}@{revision}" if is_on_hub(named) and revision and isinstance(revision, str) else named
    except CheckpointError:  # a path of another machine
        return named


def _refuse_other(adapter: Adapter, named: str, trained_on: Checkpoint, base: Checkpoint) -> None:
    pair = CheckpointPair.open(base, trained_on)
    unequal = (name for name in pair.names if not same_bits(pair.base.read(name), trained_on.read(pair.names[name])))
    name = next(iter((*pair.unlike, *pair.grown)), None) or next(unequal, None)
    if name is not None:
        raise MismatchError(
            f"{adapter.where}: an adapter of the base {quote(named)}, whose tensor {quote(name)} is another than in "
            f"{base.path.name}"
        )
