"""Time of the file and model operations on the embedded encoder, each as a ratio to a named baseline.

Operation and baseline run in turn in the same process; the medians of their times are divided. Times are the process's
own, so that others on the machine do not count; those of the disk are by the clock.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

import graft
from graft.files.location import locate
from graft.patch.merge import merge_patches
from graft.patch.skill_patch import Patch
from graft.specs.localize import LocalizeSpec
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import as_bits

RUNS = 15


def measure() -> list[dict[str, object]]:
    """One row per operation: its time, the baseline's, and their ratio."""
    base = locate("embedded:all-MiniLM-L6-v2").path
    with tempfile.TemporaryDirectory() as folder:
        tuned = _moved_copy(base, Path(folder))
        patch = graft.localize_skill(base, tuned, None, LocalizeSpec("magnitude"))
        checkpoint = Checkpoint.open(base)
        return [
            _pair("diff at 1e-4", lambda: graft.diff_checkpoints(base, tuned, density=1e-4), "read both, subtract",
                  lambda: _read_both(base, tuned)),
            _pair("apply to disk", lambda: merge_patches(checkpoint, [patch], Path(folder) / "m", force=True),
                  "copy the files", lambda: shutil.copytree(base, Path(folder) / "c", dirs_exist_ok=True),
                  clock=time.perf_counter),
            *_live(base, patch),
        ]  # fmt: skip


def _live(base: Path, patch: Patch) -> list[dict[str, object]]:
    model = transformers.AutoModel.from_pretrained(base)
    tensors = dict(model.named_parameters())
    writes = [
        (as_bits(tensors[name].detach()).view(-1), torch.tensor(patch.mask[name]), as_bits(patch.values[name]))
        for name in patch.mask
    ]

    def bare() -> None:
        for flat, indices, values in writes:
            flat.index_copy_(0, indices, values)

    originals = [(flat, indices, flat[indices]) for flat, indices, _ in writes]

    def checked() -> None:
        for flat, indices, values in originals:
            flat.index_copy_(0, indices, values)
        graft.apply_patch(model, patch).revert()

    return [_pair("verify, apply, revert (live, 1e-4)", checked, "bare index_copy_", bare)]


def _moved_copy(base: Path, folder: Path) -> Path:
    """A stand-in for a tuned checkpoint: every weight a little moved."""
    model = transformers.AutoModel.from_pretrained(base)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=1e-3)
    model.save_pretrained(folder / "tuned")
    return folder / "tuned"


def _read_both(left: Path, right: Path) -> float:
    a, b = Checkpoint.open(left), Checkpoint.open(right)
    return max(float((a.read(name) - b.read(name)).abs().max()) for name in a.parameters)


def _pair(
    name: str,
    run: Callable[[], object],
    baseline_name: str,
    baseline: Callable[[], object],
    clock: Callable[[], float] = time.process_time,
) -> dict[str, object]:
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(RUNS):
        for part, function in zip(times, (run, baseline), strict=True):
            start = clock()
            function()
            part.append(clock() - start)
    first, second = (statistics.median(part) for part in times)
    row: dict[str, object] = {"operation": name, "ms": round(first * 1e3, 2), "baseline": baseline_name}
    return row | {"baseline ms": round(second * 1e3, 2), "ratio": round(first / second, 2)}
