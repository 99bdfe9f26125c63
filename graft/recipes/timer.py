"""Timer: the seconds of each stage of a run."""

from __future__ import annotations

import time


class Timer:
    """Seconds of each stage; 0 for one that the recipe does not ask for.

    Attributes:
        seconds: stage -> seconds since the one before it.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def mark(self, stage: str) -> None:
        """End a stage and begin the next."""
        now = time.perf_counter()
        self.seconds[stage] = round(now - self._last, 1)
        self._last = now
