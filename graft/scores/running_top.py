"""The largest of scores that come part by part, in one pass, with a threshold that rises as they come.

With m = 2 and the parts (3, 1, 5), (4, 5, 2): 3 and 5 remain after the first part, and the floor is 3. Of the second
part 4 and 5 pass it, and 2 is not even copied; of 3, 5, 4, 5 the two 5s remain, and the floor is 5.
"""

from __future__ import annotations

import torch


class RunningTop:
    """The m largest of scores that come part by part; ties go to the lower position.

    Attributes:
        floor: scores below it cannot be among them any more.

    Args:
        m: how many, at least 1.
    """

    def __init__(self, m: int) -> None:
        self.m = m
        self.floor = -torch.inf
        self._top = (torch.empty(0), torch.empty(0, dtype=torch.int64))  # scores, positions
        self._waiting: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._n_waiting = 0

    def offer(self, scores: torch.Tensor, start: int) -> None:
        """Offer (n,) fp32 scores of the positions from `start` on; -inf marks what may not be taken."""
        indices = ((scores >= self.floor) & (scores > -torch.inf)).nonzero().squeeze(1)
        if len(indices) > self.m:
            indices = indices[indices_of_largest(scores[indices], indices, self.m)]
        # parts are merged once m entries wait: a top k over many costs less than many over few
        self._waiting.append((scores[indices].cpu(), indices.cpu() + start))
        self._n_waiting += len(indices)
        if self._n_waiting >= self.m:
            self._merge()

    def pop(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (m or fewer,) fp32 scores and int64 positions in no order, and start anew."""
        self._merge()
        top, self._top, self.floor = self._top, (torch.empty(0), torch.empty(0, dtype=torch.int64)), -torch.inf
        return top

    def _merge(self) -> None:
        scores, positions = (torch.cat(parts) for parts in zip(self._top, *self._waiting, strict=True))
        if len(scores) >= self.m:
            largest = indices_of_largest(scores, positions, self.m)
            scores, positions = scores[largest], positions[largest]
            self.floor = float(scores.min())
        self._top, self._waiting, self._n_waiting = (scores, positions), [], 0


def indices_of_largest(scores: torch.Tensor, positions: torch.Tensor, m: int) -> torch.Tensor:
    """Return (m,) indices of the m largest of m or more scores; ties go to the lower position."""
    # `topk` breaks ties as it likes: it gives the threshold alone, and ties at it are sorted out by position
    threshold = scores.topk(m, sorted=False).values.min()
    above, ties = (compare(scores, threshold).nonzero().squeeze(1) for compare in (torch.gt, torch.eq))
    ties = ties[positions[ties].argsort()[: m - len(above)]]
    return torch.cat([above, ties])
