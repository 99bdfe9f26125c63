"""RowProof: what a module gives for a row stays in that row, found out by running the model with noise in one row."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch

from graft.errors import ConfigError, PatchMismatchError
from graft.mixture.drawn_texts import draw_texts
from graft.mixture.rows import Call, Disturbance, has_pictures_beside_tokens
from graft.mixture.sites.site import Site
from graft.mixture.trial import trial_of

# rows and tokens of texts: at first no one can take one for the other, then whoever does is found out
_TEXTS = ((2, 5), (3, 3))
_PLAIN = (torch.Tensor, bool, int, float, str, type(None))


class RowProof:
    """Has sites proved to keep rows apart, before rows with different skills are run.

    The shape of what a module is called with does not tell where its rows are: a table that all rows share, or tokens
    that lie before rows, can look the same. So the model is run twice, the second time with noise in what is taken for
    one row of its modules' outputs, and no other row of the model's outputs may change.

    Args:
        model: whose sites they are.
        call: its forward pass.
    """

    def __init__(self, model: torch.nn.Module, call: Call) -> None:
        self._model, self._call = model, call
        self._open: weakref.WeakSet[Site[Any]] = weakref.WeakSet()  # sites of which it is not known
        self._tried: weakref.WeakKeyDictionary[Site[Any], set[Any]] = weakref.WeakKeyDictionary()
        call.before_mixed = self._prove_by_call

    def add(self, sites: Iterable[Site[Any]]) -> None:
        """Prove sites by texts, where the model reads texts; others are proved by the first batches that call them.

        Raises:
            PatchMismatchError: a site does not keep rows apart.
        """
        self._open.update(sites := set(sites))
        for row, (n_rows, n_tokens) in enumerate(_TEXTS):
            if not sites or (texts := draw_texts(self._model, n_rows, n_tokens)) is None:
                return
            try:
                sites &= self._prove(partial(self._model, **texts), n_rows, [row])
            except ConfigError as error:
                raise PatchMismatchError(str(error)) from error
            except Exception:  # of many kinds, as where a model needs more than texts
                return
        self._close(sites)

    def _prove_by_call(self, part: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Prove sites by the batch at hand, once for every kind of arguments.

        Raises:
            ConfigError: a site does not keep rows apart.
        """
        if not self._open or has_pictures_beside_tokens(kwargs):  # of which the next batch may have other numbers
            return
        kind = (part, len(args), frozenset(key for key, value in kwargs.items() if value is not None))
        if all(kind in self._tried.get(site, ()) for site in self._open):
            return
        for site in self._open:
            self._tried.setdefault(site, set()).add(kind)

        try:
            for value in (*args, *kwargs.values()):
                _copy(value)
        except Exception:  # of many kinds, as for what was computed with gradients
            return

        def run() -> Any:
            return part(*map(_copy, args), **{key: _copy(value) for key, value in kwargs.items()})

        try:
            self._close(self._prove(run, self._call.n_rows, [0, self._call.n_rows - 1]))
        except ConfigError:
            self._tried.clear()  # and refused again the next time
            raise

    def _close(self, sites: set[Site[Any]]) -> None:
        for site in sites:
            site.keeps_rows = True
        self._open.difference_update(sites)

    def _prove(self, run: Callable[[], Any], n_rows: int, rows: list[int]) -> set[Site[Any]]:
        """Return the open sites that a run calls and that keep these rows apart.

        Raises:
            ConfigError: one does not.
        """
        noise = Disturbance(0, frozenset())
        base = self._outputs(run, n_rows, noise)
        called = sorted(noise.called.intersection(self._open), key=lambda site: site.name)

        def disturb(sites: list[Site[Any]], row: int) -> list[torch.Tensor]:
            return self._outputs(run, n_rows, Disturbance(row, frozenset(sites)))

        def mixes(sites: list[Site[Any]], row: int) -> bool:
            return not _keep_others(base, disturb(sites, row), row)

        for row in rows:
            found = disturb(called, row)
            if not _keep_others(base, found, row):
                site = _find_first(called, partial(mixes, row=row))
                raise ConfigError(
                    f"module {site.name!r} is called with what several rows share, or not row by row: skills that "
                    "touch it can be grafted, not mixed in one batch"
                )
            if all(torch.equal(one[row], other[row]) for one, other in zip(base, found, strict=True)):
                return set()  # noise that changes nothing proves nothing
        return set(called)

    @torch.no_grad()
    def _outputs(self, run: Callable[[], Any], n_rows: int, noise: Disturbance) -> list[torch.Tensor]:
        """Run the model, as it was built to be used, and return its outputs that have rows."""
        with trial_of(self._model), self._call.disturbed(noise, n_rows):
            output = run()
        values = output.values() if isinstance(output, dict) else output if isinstance(output, tuple) else [output]
        tensors = [value for value in values if isinstance(value, torch.Tensor) and value.is_floating_point()]
        return [tensor for tensor in tensors if tensor.dim() and tensor.shape[0] == n_rows]


def _keep_others(base: list[torch.Tensor], found: list[torch.Tensor], row: int) -> bool:
    """Return whether outputs are the same but for a row, and for rounding where that row has others computed apart."""
    for one, other in zip(base, found, strict=True):
        if one.shape != other.shape:
            return False
        near = torch.finfo(one.dtype).eps ** 0.5
        size = one.float().abs().median().item()
        same = torch.isclose(other.double(), one.double(), rtol=near, atol=near * size, equal_nan=True)
        same[row] = True
        if not same.all():
            return False
    return True


def _find_first(sites: list[Site[Any]], mixes: Callable[[list[Site[Any]]], bool]) -> Site[Any]:
    """Return a site by which rows mix, of some by which they do."""
    while len(sites) > 1:
        first, rest = sites[: len(sites) // 2], sites[len(sites) // 2 :]
        sites = first if mixes(first) else rest
    return sites[0]


def _copy(value: Any) -> Any:
    """Copy a cache, the one kind of argument that a model writes into."""
    return value if isinstance(value, (*_PLAIN, dict, list, tuple)) else copy.deepcopy(value)
