"""Candidates from the first gradients: the best of -g * delta in each of a few micro-batches, with no dense sum.

Candidates by |delta| alone miss the skill of an AdamW-tuned model (its 10,000 largest movements held 6 to 8 % of the
attribution mask), and a sum of gradients over all examples would take 4 bytes per weight. So for each of the first few
micro-batches at the base, each gradient is scored on its device as soon as it exists, against delta read part by part
from the mapped files; a running threshold keeps the `multiple` x k best of the micro-batch; the union is the
candidates.

Five weights, k = 1, multiple 2, two micro-batches; the last weight never moved, and is no candidate:

    -g * delta in the 1st   ( .5, .1, .4, -.2, -)   the best 2: 1st and 3rd
    -g * delta in the 2nd   (-.1, .6, .3,  .2, -)   the best 2: 2nd and 3rd
    candidates: 1st, 2nd, 3rd. The best by the sum, (.4, .7, .7, 0, -), are among them, without a sum in memory.

That is not certain: a weight that is third in every micro-batch is missed, which is why `multiple` is above 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from graft.errors import CheckpointError
from graft.files.tensor_spec import TensorSpec
from graft.parallel.ranks import Ranks
from graft.patch.mask import Mask
from graft.scores.coordinates import Groups
from graft.scores.gradients import GradientSink
from graft.scores.running_top import RunningTop
from graft.tensors.dtypes import as_bits
from graft.tensors.pair import CHUNK, CheckpointPair
from graft.tensors.shards import Shard, local_of, shard_of

PART_ON_DEVICE = 1 << 21  # entries scored together, in under 64 MiB; on the CPU parts fit its cache (`CHUNK`)


class CandidateSearch(GradientSink):
    """The union over micro-batches of the best of -g * delta among changed entries.

    Args:
        pair: base and tuned checkpoints.
        groups: (names, share of the budget): each group has a threshold of its own.
        multiple: candidates per micro-batch and entry of the budget.
        ranks: the processes that the micro-batches are dealt out to; the union is over all of them.
    """

    def __init__(
        self,
        pair: CheckpointPair,
        groups: Groups,
        multiple: int,
        ranks: Ranks = Ranks(),  # noqa: B008 - immutable
    ) -> None:
        self.pair = pair
        self.ranks = ranks
        self._tops = {name: top for names, k in groups for top in [RunningTop(multiple * k)] for name in names}
        self._index = GlobalIndex(pair, list(self._tops))
        self._received: set[str] = set()
        self._candidates = torch.empty(0, dtype=torch.int64)

    def receive(self, name: str, gradient: torch.Tensor) -> None:
        """Score a tensor's entries on its device, part by part.

        Raises:
            CheckpointError: a gradient is not finite.
        """
        if name in self._tops:
            self._received.add(name)
            self._score(name, shard_of(gradient), local_of(gradient).flatten())

    def end_batch(self, *, counts: bool = True) -> None:
        """Join the best of the micro-batch to the union."""
        for name in self._index.names:
            untouched = name not in self._received  # by the loss, and so scores 0
            if counts and untouched and self._tops[name].floor <= 0:
                spec = self.pair.base.spec(name)
                self._score(name, Shard.of_splits(spec.shape, []), torch.zeros(1).expand(spec.numel))
        tops = {id(top): top for top in self._tops.values()}
        best = torch.cat([torch.empty(0, dtype=torch.int64), *(top.pop()[1] for top in tops.values())])
        self._candidates = torch.cat([self._candidates, *self.ranks.gather_objects(best)]).unique()  # type: ignore[no-untyped-call]
        self._received.clear()

    def _score(self, name: str, shard: Shard, gradient: torch.Tensor) -> None:
        top = self._tops[name]
        start = self._index.starts[name] + shard.start
        for offset, base, tuned in _read_parts(self.pair, name, shard, gradient.device):
            # -g * delta in fp32, in place
            scores = tuned.float().sub(base.float()).mul_(gradient[offset : offset + len(base)]).neg_()
            if torch.isnan(scores).any():
                raise CheckpointError(f"tensor {name!r}: its gradient is not finite")
            if top.floor <= 0:  # above it an entry that did not move, and so scores 0, cannot come
                scores.masked_fill_(as_bits(tuned) == as_bits(base), -torch.inf)
            top.offer(scores, start + offset)

    @property
    def mask(self) -> Mask:
        """The candidates so far."""
        return self._index.mask_of(self._candidates)


class GlobalIndex:
    """A numbering of the weights of a pair's tensors, which counts through the tensors in order of name.

    Tensors of 3 and 4 weights, "a" and "b": weight 2 of "a" is number 2, weight 1 of "b" is number 4. One int64 vector
    can then hold coordinates of many tensors, be joined with another, and be sorted in the order in which ties are
    broken.

    Attributes:
        names: the tensors, in ascending order.
        starts: tensor name -> the number of its first weight.

    Args:
        pair: base and tuned checkpoints.
        names: the tensors.
    """

    def __init__(self, pair: CheckpointPair, names: Sequence[str]) -> None:
        self.names = sorted(names)
        self._specs: Mapping[str, TensorSpec] = {name: pair.base.spec(name) for name in self.names}
        ends = [0, *np.cumsum([spec.numel for spec in self._specs.values()], dtype=np.int64).tolist()]
        self.starts: Mapping[str, int] = dict(zip(self.names, ends, strict=False))

    def mask_of(self, positions: torch.Tensor) -> Mask:
        """Return the mask of (k,) ascending positions."""
        numbers, indices = positions.numpy(), {}
        for name, spec in self._specs.items():
            start = self.starts[name]
            first, last = np.searchsorted(numbers, [start, start + spec.numel])
            indices[name] = numbers[first:last] - start
        return Mask.of(self._specs, indices)


def _read_parts(
    pair: CheckpointPair, name: str, shard: Shard, device: torch.device
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Yield (offset, base, tuned) of a shard, in the base's dtype on a device, a part of the mapped files at a time."""
    base, tuned = (shard.cut(tensor).flatten() for tensor in (pair.base.read(name), pair.read_tuned(name)))
    size = CHUNK if device.type == "cpu" else PART_ON_DEVICE
    for offset in range(0, len(base), size):
        part = slice(offset, offset + size)
        yield offset, base[part].to(device), pair.align(base[part], tuned[part]).to(device)
