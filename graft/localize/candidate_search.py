"""Candidates from the first gradients: the best of -g * delta in each of a few micro-batches, with no dense sum.

Candidates by |delta| alone miss the skill of an AdamW-tuned model (its 10,000 largest movements held 6 to 8 % of the
attribution mask), and a sum of gradients over all examples would take 4 bytes per weight. So for each of the first few
micro-batches at the base, each gradient is scored where and when it is made, against delta read part by part from the
mapped files; a running threshold keeps the `multiple` x k best of the micro-batch; the union is the candidates.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from graft.errors import CheckpointError
from graft.localize.coordinates import Groups
from graft.localize.gradients import GradientSink
from graft.localize.numbering import Numbering
from graft.localize.running_top import RunningTop
from graft.parallel.ranks import Ranks
from graft.patch.mask import Mask
from graft.tensors.dtypes import as_bits
from graft.tensors.pair import CHUNK, CheckpointPair
from graft.tensors.shards import Shard, local_of, shard_of

PART_ON_DEVICE = 1 << 21  # entries scored together in under 64 MiB; on the CPU in what its cache holds


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
        self._numbering = Numbering(pair, list(self._tops))
        self._seen: set[str] = set()
        self._found = torch.empty(0, dtype=torch.int64)

    def receive(self, name: str, gradient: torch.Tensor) -> None:
        """Score a tensor's entries on its device, part by part.

        Raises:
            CheckpointError: a gradient is not finite.
        """
        if name in self._tops:
            self._seen.add(name)
            self._score(name, shard_of(gradient), local_of(gradient).flatten())

    def end_batch(self, *, counts: bool = True) -> None:
        """Join the best of the micro-batch to the union."""
        for name in self._numbering.names:
            untouched = name not in self._seen  # by the loss, and so scores 0
            if counts and untouched and self._tops[name].floor <= 0:
                spec = self.pair.base.spec(name)
                self._score(name, Shard.of_splits(spec.shape, []), torch.zeros(1).expand(spec.numel))
        tops = {id(top): top for top in self._tops.values()}
        best = torch.cat([torch.empty(0, dtype=torch.int64), *(top.drain()[1] for top in tops.values())])
        self._found = torch.cat([self._found, *self.ranks.gather_objects(best)]).unique()  # type: ignore[no-untyped-call]
        self._seen.clear()

    def _score(self, name: str, piece: Shard, flat: torch.Tensor) -> None:
        top = self._tops[name]
        start = self._numbering.starts[name] + piece.start
        for place, base, tuned in _read_parts(self.pair, name, piece, flat.device):
            scores = tuned.float().sub(base.float()).mul_(flat[place : place + len(base)]).neg_()  # -g * delta, fp32
            if torch.isnan(scores).any():
                raise CheckpointError(f"tensor {name!r}: its gradient is not finite")
            if top.floor <= 0:  # above it an entry that did not move, and so scores 0, cannot come
                scores.masked_fill_(as_bits(tuned) == as_bits(base), -torch.inf)
            top.offer(scores, start + place)

    @property
    def mask(self) -> Mask:
        """What was found."""
        return self._numbering.mask_of(self._found)


def _read_parts(
    pair: CheckpointPair, name: str, piece: Shard, device: torch.device
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """(place, base, tuned) of a piece, in the base's dtype on a device, a part of the mapped files at a time."""
    base, tuned = (piece.cut(whole).flatten() for whole in (pair.base.read(name), pair.read_tuned(name)))
    size = CHUNK if device.type == "cpu" else PART_ON_DEVICE
    for place in range(0, len(base), size):
        part = slice(place, place + size)
        yield place, base[part].to(device), pair.align(base[part], tuned[part]).to(device)
