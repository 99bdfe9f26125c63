"""Time and memory of streaming over sharded random-weight checkpoints in bf16, at several sizes.

Each command runs in a process of its own, its baseline too, and both by the same threads; the files lie in the page
cache. Memory is the highest anonymous memory above the imported interpreter. A quarter of the weights move, by about
one unit in the last place, so that ties are many, as in real checkpoints in bf16; every layer holds the same numbers,
rolled.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers  # noqa: F401 - counts as the interpreter's
from safetensors.torch import save_file

import graft
from graft.patch.fit import check_digest, check_fit
from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from graft.patch.merge import StoredTarget, merge_patches
from graft.tensors.checkpoint import Checkpoint
from tests.benchmarks.compose import Peak

LAYERS = {"0.1B": 1, "0.3B": 4, "1B": 15, "3B": 48}  # of 61M weights each, beside 66M of embeddings
SHAPES = {"q": (2048, 2048), "k": (512, 2048), "v": (512, 2048), "o": (2048, 2048)}
SHAPES |= {"gate": (8192, 2048), "up": (8192, 2048), "down": (2048, 8192)}
RUNS = 3
Row = dict[str, object]


def measure(sizes: tuple[str, ...] = tuple(LAYERS)) -> list[Row]:
    """Rows of diff at every size, and of apply and verify at the size 1B."""
    rows: list[Row] = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_model(folder / "base", LAYERS[size], moved=False)
            write_model(folder / "tuned", LAYERS[size], moved=True)
            rows.append(_compare(folder, size, "diff", "read both, max abs(a - b)", "largest"))
            if size == "1B":
                rows.append(_compare(folder, size, "apply", "copy the files and sync", "copy"))
                rows.append(_compare(folder, size, "verify", "read the base", "read"))
                rows.append(_compare(folder, size, "verify --full", "read the base", "read"))
    return rows


def write_model(folder: Path, layers: int, *, moved: bool) -> None:
    """Shards of one layer each, and one of embeddings."""
    shards = [{"embed.weight": (32_000, 2048)}]
    shards += [{f"layers.{i}.{name}.weight": shape for name, shape in SHAPES.items()} for i in range(layers)]
    folder.mkdir(parents=True)
    files = {}
    for number, shapes in enumerate(shards):
        file = f"model-{number:05}.safetensors"
        tensors = {name: _draw(shape, moved).roll(number, 1) for name, shape in shapes.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        files |= dict.fromkeys(shapes, file)
    index = {"metadata": {"total_size": 0}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


@functools.cache
def _draw(shape: tuple[int, ...], moved: bool) -> torch.Tensor:
    """Weights of about .02; where a quarter of them moved, by one unit in the last place, or rarely by more."""
    generator = torch.Generator().manual_seed(shape[0])
    base = torch.randn(shape, generator=generator).mul_(0.02).bfloat16()
    dice = torch.randint(1 << 15, shape, generator=generator, dtype=torch.int16)
    step = (dice < 1 << 13).to(torch.int16) + 7 * (dice < 4).to(torch.int16)
    return (base.view(torch.int16) + step).view(torch.bfloat16) if moved else base


def _compare(folder: Path, size: str, command: str, against: str, baseline: str) -> Row:
    pairs = [(_run(folder, command), _run(folder, baseline)) for _ in range(RUNS)]
    ours, theirs = (sorted(item["s"] for item in part)[RUNS // 2] for part in zip(*pairs, strict=True))
    peak = max(ours["MiB"] for ours, _ in pairs)
    ratio = round(ours / theirs, 2)
    row: Row = {"size": size, "command": command, "s": ours, "baseline": against, "baseline s": theirs, "ratio": ratio}
    return row | {"anonymous MiB": round(peak)}


def _run(folder: Path, way: str) -> dict[str, float]:
    """One way in a process of its own: seconds, and MiB."""
    arguments = [sys.executable, "-m", "tests.benchmarks.streaming", str(folder), way]
    found: dict[str, float] = json.loads(subprocess.run(arguments, stdout=subprocess.PIPE, check=True).stdout)
    return found


def work(folder: Path, way: str) -> None:
    """One way; prints what it took."""
    ways: dict[str, Callable[[Path], object]] = {
        "diff": _diff, "apply": _apply, "verify": _verify, "verify --full": _verify_full,
        "largest": _largest, "copy": _copy, "read": _read,
    }  # fmt: skip
    graft.diff_checkpoints  # noqa: B018 - imports count as the interpreter's
    peak, start = Peak(), time.perf_counter()
    before = peak.now() // 1024
    ways[way](folder)
    print(json.dumps({"s": round(time.perf_counter() - start, 3), "MiB": peak.stop() - before}))


def _diff(folder: Path) -> None:
    save_patch(graft.diff_checkpoints(folder / "base", folder / "tuned", density=1e-4), folder / "p", force=True)


def _apply(folder: Path) -> None:
    merge_patches(Checkpoint.open(folder / "base"), [load_patch(folder / "p")], folder / "merged", force=True)


def _verify(folder: Path) -> None:
    check_fit(load_patch(folder / "p"), StoredTarget(Checkpoint.open(folder / "base"))).require("base")


def _verify_full(folder: Path) -> None:
    _verify(folder)
    assert check_digest(load_patch(folder / "p"), Checkpoint.open(folder / "base")) is None


def _largest(folder: Path) -> None:
    a, b = Checkpoint.open(folder / "base"), Checkpoint.open(folder / "tuned")
    assert max(float((a.read(name) - b.read(name)).abs_().max()) for name in a.names) > 0


def _copy(folder: Path) -> None:
    """The same files to another folder, on the disk as the merged ones are."""
    shutil.rmtree(folder / "copy", ignore_errors=True)
    (folder / "copy").mkdir()
    for file in (folder / "base").iterdir():
        shutil.copyfile(file, folder / "copy" / file.name)
        with (folder / "copy" / file.name).open("rb") as written:
            os.fsync(written.fileno())


def _read(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder / "base")
    assert all(int(checkpoint.read(name).view(torch.int16).max()) for name in checkpoint.names)


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2])
