"""Tensors that a patch's base ties and a model does not, or the other way: writing one is not writing both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

Match = Callable[[tuple[str, ...]], Mapping[str, str]]  # names of the base -> their places in the model


def find_untied(names: Mapping[str, str], tied: Sequence[Sequence[str]], match: Match) -> Iterator[str]:
    """Facts of tensors that the base ties with another, which is a tensor of its own in the model.

    Args:
        names: the patch's tensor -> its place in the model.
        tied: groups of base names that share one storage.
        match: places of any names, tied ones each under the one that stands for them.
    """
    for group in tied:
        mine = [name for name in group if name in names]
        for other, place in match(tuple(group)).items() if mine else ():
            if place != names[mine[0]]:
                yield f"tensor {mine[0]!r}: the patch's base ties it with {other!r}, the model does not"


def find_joined(names: Mapping[str, str], tied: Sequence[Sequence[str]]) -> Iterator[str]:
    """Facts of tensors that the base holds apart, and the model ties; arguments as of `find_untied`."""
    owners: dict[str, str] = {}
    for name, place in names.items():
        other = owners.setdefault(place, name)
        if other != name and not any(name in group and other in group for group in tied):
            yield f"tensor {name!r}: the model ties it with {other!r}, the patch's base does not"
