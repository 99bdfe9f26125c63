"""Times that nobody should have to wait for: intervals of every metric, and the refusal of a corrupted patch."""

from __future__ import annotations

import contextlib
import tempfile
from functools import partial
from pathlib import Path

from graft.errors import PatchFormatError
from graft.evaluate.bootstrap import bootstrap_metrics
from graft.patch.format.reading import load_patch
from tests.benchmarks.timing import time_in_turn
from tests.evaluate.test_bootstrap import METRICS, random_outcomes
from tests.patch.format.corruptions import CORRUPTIONS

RUNS = 3


def measure() -> list[dict[str, object]]:
    """One row per operation: what it is of, and its median time."""
    rows: list[dict[str, object]] = []
    for n, classes in ((1821, 2), (2000, 150)):
        resample = partial(bootstrap_metrics, random_outcomes(n, classes), METRICS)
        times = time_in_turn([("ms", resample)], RUNS)
        rows.append({"operation": "1,000 resamples of six metrics", "of": f"{n} x {classes}", **times})
    with tempfile.TemporaryDirectory() as folder:
        waits = {name: time_refusal(Path(folder) / "patch", data) for name, (data, _) in CORRUPTIONS.items()}
    slowest = max(waits, key=lambda name: waits[name])
    return [*rows, {"operation": "refusing a corrupted patch", "of": f"the slowest: {slowest}", "ms": waits[slowest]}]


def time_refusal(path: Path, data: bytes) -> float:
    """Median milliseconds until a file of these bytes is refused."""
    path.write_bytes(data)

    def refuse() -> None:
        with contextlib.suppress(PatchFormatError):
            load_patch(path)

    return time_in_turn([("ms", refuse)], RUNS)["ms"]
