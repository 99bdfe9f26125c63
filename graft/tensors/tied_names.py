"""Tied tensors: one storage under several names, any of which a file may list."""

from __future__ import annotations

from collections.abc import Collection, Iterable


class TiedNames(tuple[frozenset[str], ...]):
    """Groups of names that share one storage, such as an input embedding and the output layer made of it.

    A tuple of disjoint sets of two or more names. A name that is in none of them is a group of its own.
    """

    __slots__ = ()

    @classmethod
    def of(cls, groups: Iterable[Iterable[str]]) -> TiedNames:
        """Make the groups from any iterables of names, such as the lists of a patch file."""
        return cls(frozenset(group) for group in groups)

    def group_of(self, name: str) -> frozenset[str]:
        """Return all names of a tensor's storage, its own among them."""
        return next((group for group in self if name in group), frozenset((name,)))

    def listed(self, name: str, available: Collection[str]) -> list[str]:
        """Return the names of a tensor's storage that are available, in ascending order."""
        return sorted(other for other in self.group_of(name) if other in available)

    def owner(self, name: str, available: Collection[str]) -> str:
        """Return the one name that stands for a tensor's storage: the first that is available, else its own."""
        return min(self.listed(name, available), default=name)

    def repeats(self, available: Collection[str]) -> frozenset[str]:
        """Return the available names that only repeat the owner of their storage."""
        return frozenset(name for group in self for name in sorted(group & set(available))[1:])

    def are_tied(self, one: str, other: str) -> bool:
        """Return whether two names share one storage."""
        return other in self.group_of(one)
