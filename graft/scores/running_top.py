"""The largest of scores that come part by part, in one pass: a threshold that rises with what was seen.

With m = 2 and the parts (3, 1, 5), (4, 5, 2): after the first part 3 and 5 are kept, and the floor is 3. Of the second
part 4 and 5 pass it, 2 is not even copied; of 3, 5, 4, 5 the two 5s are kept, and the floor is 5.
"""

from __future__ import annotations

import torch


class RunningTop:
    """The m largest of scores that come part by part; ties go to the lower position.

    Attributes:
        floor: what is below it cannot be among them any more.

    Args:
        m: how many, at least 1.
    """

    def __init__(self, m: int) -> None:
        self.m = m
        self.floor = -torch.inf
        self._kept = (torch.empty(0), torch.empty(0, dtype=torch.int64))  # scores, positions
        self._waiting: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._n_waiting = 0

    def offer(self, scores: torch.Tensor, start: int) -> None:
        """Look at (n,) fp32 scores of the positions from `start` on; -inf marks what may not be taken."""
        places = ((scores >= self.floor) & (scores > -torch.inf)).nonzero().squeeze(1)
        if len(places) > self.m:
            places = places[largest_of(scores[places], places, self.m)]
        self._waiting.append((scores[places].cpu(), places.cpu() + start))
        self._n_waiting += len(places)
        if self._n_waiting >= self.m:
            self._settle()

    def pop(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (m or fewer,) fp32 scores and int64 positions in no order; it starts anew."""
        self._settle()
        kept, self._kept, self.floor = self._kept, (torch.empty(0), torch.empty(0, dtype=torch.int64)), -torch.inf
        return kept

    def _settle(self) -> None:
        scores, positions = (torch.cat(parts) for parts in zip(self._kept, *self._waiting, strict=True))
        if len(scores) >= self.m:
            kept = largest_of(scores, positions, self.m)
            scores, positions = scores[kept], positions[kept]
            self.floor = float(scores.min())
        self._kept, self._waiting, self._n_waiting = (scores, positions), [], 0


def largest_of(scores: torch.Tensor, positions: torch.Tensor, m: int) -> torch.Tensor:
    """Return (m,) places of the m largest of m or more scores; ties go to the lower position."""
    cut = scores.topk(m, sorted=False).values.min()
    above, ties = (compare(scores, cut).nonzero().squeeze(1) for compare in (torch.gt, torch.eq))
    ties = ties[positions[ties].argsort()[: m - len(above)]]
    return torch.cat([above, ties])
