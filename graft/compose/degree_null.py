"""Overlap by chance of masks that keep the counts of every row and column of each tensor.

A mask of a matrix is a bipartite graph of rows and columns. Two independent uniformly random graphs of the same degrees
say what two masks share that have nothing in common but how often they touch each row and each column. There is no
closed form; the graphs are sampled by the global curveball chain (Carstens, Berger and Strona 2018, arXiv 1609.05137;
curveball after Strona et al. 2014, doi 10.1038/ncomms5114): in each trade the nodes of one side are paired at random,
and the neighbors that only one of two has are dealt anew between them, each keeping its number. All pairs of all
tensors and masks trade at once.

It is the strictest of nulls: which rows and which columns a mask touches is kept, so that a mask of one column, each of
whose rows has one entry, is its own only sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from graft.patch.index_join import Ints, count_overlaps, join_indices
from graft.patch.mask import Indices

SAMPLES = 100
BURN_IN = 50  # trades before the first sample
THINNING = 10  # trades from one sample to the next
MOST_ENTRIES = 200_000  # of all masks together that are sampled unasked: a minute or so

Floats = npt.NDArray[np.float64]


@dataclass
class DegreeNull:
    """The masks of m regions, tensor by tensor, to be drawn anew with the degrees that they have.

    Attributes:
        m: how many regions.
    """

    m: int
    _blocks: list[_Block] = field(default_factory=list)
    _vectors: list[tuple[Ints, int]] = field(default_factory=list)
    _start: int = 0  # of the next tensor's coordinates

    def add(self, matrices: tuple[int, int, int], owners: Sequence[int], indices: Sequence[Indices]) -> None:
        """Add a tensor: how many matrices it holds, one after another, and their two axes.

        Which of these is that of rows makes no difference. A tensor that a single region touches is shared by none.
        """
        if len(owners) < 2:
            return
        n_columns, size = matrices[2], matrices[1] * matrices[2]
        for owner, part in zip(owners, indices, strict=True):
            for number in np.unique(part // size):
                start, stop = np.searchsorted(part, (number * size, (number + 1) * size))
                within = part[start:stop] - number * size
                self._blocks.append(_Block.of(owner, self._start + int(number) * size, n_columns, within))
        self._start += matrices[0] * size

    def add_vector(self, n: int, owners: Sequence[int], indices: Sequence[Indices]) -> None:
        """Add a tensor of n weights and one dimension: only the count is kept, as if each had a row of its own."""
        if len(owners) < 2:
            return
        k = np.zeros(self.m, np.int64)
        k[list(owners)] = [len(part) for part in indices]
        self._vectors.append((k, n))

    def sample(self, samples: int = SAMPLES, *, seed: int = 0, label: str = "degrees") -> npt.NDArray[np.int64]:
        """Return (samples, m, m) int64: entries that two regions share in each sample; 0 on the diagonal."""
        random = np.random.default_rng(seed)
        drawn = np.zeros((samples, self.m, self.m), np.int64)
        upper = np.triu_indices(self.m, 1)
        for k, n in self._vectors:
            a, b = k[upper[0]], k[upper[1]]
            drawn[:, upper[0], upper[1]] += random.hypergeometric(a, n - a, b, (samples, len(a)))
        if self._blocks:
            chains = _chain(self._blocks, self.m, random)
            for sample, _ in zip(drawn, tqdm(range(samples), desc=label, disable=None, leave=False), strict=True):
                sample += np.triu(next(chains), 1)
        return drawn + drawn.transpose(0, 2, 1)


@dataclass(frozen=True)
class _Block:
    """The entries of one region in one tensor, as edges.

    Attributes:
        owner: the region.
        start: of the tensor's coordinates.
        node: (k,) side that trades, that with more nodes, since small degrees mix fastest.
        other: (k,) the other side.
        steps: coordinate of an edge = start + node * steps[0] + other * steps[1].
    """

    owner: int
    start: int
    node: Ints
    other: Ints
    steps: tuple[int, int]

    @classmethod
    def of(cls, owner: int, start: int, n_columns: int, indices: Indices) -> _Block:
        """Make the block of a matrix's flat indices; its nodes are rows or columns, whichever are more."""
        rows, columns = np.divmod(indices, n_columns)
        if len(np.unique(rows)) >= len(np.unique(columns)):
            return cls(owner, start, rows, columns, (n_columns, 1))
        return cls(owner, start, columns, rows, (1, n_columns))


def _chain(blocks: Sequence[_Block], m: int, random: np.random.Generator) -> Iterator[Ints]:
    """Yield the (m, m) overlaps of one sample after another."""
    edges = Edges.of([block.node for block in blocks], [block.other for block in blocks])
    lengths = [len(block.node) for block in blocks]
    facts = np.array([(block.owner, block.start, *block.steps) for block in blocks], np.int64)
    owner, start, step_of_node, step_of_other = np.repeat(facts, lengths, axis=0).T
    bounds = np.searchsorted(np.sort(owner), np.arange(1, m))
    order = np.argsort(owner, kind="stable")
    trades = BURN_IN
    while True:
        for _ in range(trades):
            edges.trade(random)
        coordinates = (start + edges.node * step_of_node + edges.other * step_of_other)[order]
        sets = [np.sort(part) for part in np.split(coordinates, bounds)]
        yield count_overlaps(join_indices(sets), m)
        trades = THINNING


@dataclass
class Edges:
    """Edges of many bipartite graphs, and one step of the chain over all of them.

    Attributes:
        identity: (e,) the traded node of each edge, a number of its own in every graph.
        other: (e,) its other end, a number within the graph.
        graph: (v,) the graph of each traded node, ascending.
        names: (v,) its number within the graph.
    """

    identity: Ints
    other: Ints
    graph: Ints
    names: Ints

    @classmethod
    def of(cls, nodes: Sequence[Ints], others: Sequence[Ints]) -> Edges:
        """Take the edges of graphs, each given by its traded nodes and their other ends."""
        identity, graph, names, v = [], [], [], 0
        for i, part in enumerate(nodes):
            unique, inverse = np.unique(part, return_inverse=True)
            identity.append(inverse + v)
            graph.append(np.full(len(unique), i))
            names.append(unique)
            v += len(unique)
        return cls(*map(np.concatenate, (identity, others, graph, names)))

    @property
    def node(self) -> Ints:
        """(e,) the traded node of each edge, a number within the graph."""
        return self.names[self.identity]

    def trade(self, random: np.random.Generator) -> None:
        """Pair the nodes of each graph at random; deal anew between two what only one of them is joined to."""
        pair = self._pair_nodes(random)[self.identity]
        order = np.lexsort((self.other, pair))
        repeats = (np.diff(pair[order]) == 0) & (np.diff(self.other[order]) == 0)  # joined to both: stays
        alone = ~(np.append(repeats, False) | np.insert(repeats, 0, False))
        free = order[alone]  # in runs, one a pair
        # who holds these edges is shuffled within each run: every way to deal them is as likely as any other
        shuffled = free[np.lexsort((random.random(len(free)), pair[free]))]
        self.identity[shuffled] = self.identity[free]

    def _pair_nodes(self, random: np.random.Generator) -> Ints:
        """Return (v,) the pair of each node; where a graph has an odd number of nodes, one is alone in its pair."""
        order = np.lexsort((random.random(len(self.graph)), self.graph))
        place = np.arange(len(order)) - np.searchsorted(self.graph, self.graph)  # within its graph
        starts = np.append(True, self.graph[1:] != self.graph[:-1]) | (place % 2 == 0)
        pair = np.empty(len(order), np.int64)
        pair[order] = np.cumsum(starts)
        return pair
