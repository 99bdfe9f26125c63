"""Time and memory of fusing two models against reading what it must read and writing one.

Each run is a process of its own, the baseline too, by turns; what is written is synced to the disk. The files lie in
the page cache, and in further runs on the disk alone, as those do that were not read for a while. Processor time is
user and system together, of the work without the imports.
`python -m tests.benchmarks.fuse FOLDER` leaves the models of one size in a folder, for other tools to fuse.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from graft.compose.fusion import fuse_models
from graft.specs.fusion import FusionSpec
from graft.tensors.checkpoint import Checkpoint
from tests.benchmarks.compose import Peak
from tests.benchmarks.streaming import LAYERS

SHAPES = {f"self_attn.{name}_proj": (rows, 2048) for name, rows in (("q", 2048), ("k", 512), ("v", 512), ("o", 2048))}
SHAPES |= {"mlp.gate_proj": (8192, 2048), "mlp.up_proj": (8192, 2048), "mlp.down_proj": (2048, 8192)}
NORMS = ("input_layernorm", "post_attention_layernorm")
METHODS = {  # sizes that each is measured at; what its baseline reads, and how often
    "slerp": (("0.1B", "0.3B", "1B"), ("a", "b"), 1),
    "cpi": (("0.1B", "0.3B", "1B"), ("base", "a", "b"), 2),
    "ties": (("0.1B",), ("base", "a", "b"), 2),
}
RUNS = 3
Row = dict[str, object]


def measure(sizes: tuple[str, ...] = ("0.1B", "0.3B", "1B")) -> list[Row]:
    """One row per size and method."""
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            write_models(Path(name), LAYERS[size])
            rows += [_compare(Path(name), size, method) for method in METHODS if size in METHODS[method][0]]
    return rows


def write_models(folder: Path, layers: int) -> None:
    """A base and two tuned models, "a" and "b", of random weights that lie a little beside the base's."""
    for seed, model in enumerate(("base", "a", "b")):
        (folder / model).mkdir(parents=True)
        tensors = {"model.embed_tokens.weight": _draw((32_000, 2048), seed)}
        for i in range(layers):
            for name, shape in SHAPES.items():
                tensors[f"model.layers.{i}.{name}.weight"] = _draw(shape, seed).roll(i, 1)
            tensors |= {f"model.layers.{i}.{name}.weight": _draw((2048,), seed).clone() for name in NORMS}
        tensors["model.norm.weight"] = _draw((2048,), seed).clone()
        save_file(tensors, folder / model / "model.safetensors", metadata={"format": "pt"})
        _draw.cache_clear()


@functools.cache
def _draw(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    tensor = 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(shape[0]))
    if seed:
        tensor += 1e-3 * torch.randn(shape, generator=torch.Generator().manual_seed(1000 * seed + shape[0]))
    return tensor.bfloat16()


def work(folder: Path, method: str, what: str) -> None:
    """One fusion or its baseline; prints its seconds, those of the processor, and MiB."""
    peak, start, before = Peak(every=0.05), time.perf_counter(), time.process_time()
    if what == "baseline":
        _read_and_write(folder, *METHODS[method][1:])
    else:
        fuse_models(folder / "base", [folder / "a", folder / "b"], folder / "out", FusionSpec(method))  # type: ignore[arg-type]
    took = {"s": time.perf_counter() - start, "processor s": time.process_time() - before}
    print(json.dumps(took | {"MiB": peak.stop()}))


def _read_and_write(folder: Path, models: tuple[str, ...], passes: int) -> None:
    """Read models so many times, every weight by the processor, and write one to the disk."""
    for _ in range(passes):
        for model in models:
            checkpoint = Checkpoint.open(folder / model)
            for name in checkpoint.names:
                checkpoint.read(name).view(torch.int16).max()
    (folder / "out").mkdir()
    shutil.copyfile(folder / "base" / "model.safetensors", folder / "out" / "model.safetensors")
    with (folder / "out" / "model.safetensors").open("rb") as written:
        os.fsync(written.fileno())  # as the fusion's output is


def _compare(folder: Path, size: str, method: str) -> Row:
    """Medians of runs by turns."""
    cached, cold = ([_run_both(folder, method, forget) for _ in range(RUNS)] for forget in (False, True))
    _, models, passes = METHODS[method]
    row: Row = {"size": size, "fuse": method}
    for title, clock, runs in (("s", "s", cached), ("processor s", "processor s", cached), ("s from disk", "s", cold)):
        ours, theirs = (statistics.median(run[what][clock] for run in runs) for what in ("fuse", "baseline"))
        row |= {
            title: round(ours, 2),
            f"baseline {title}": round(theirs, 2),
            f"ratio of {title}": round(ours / theirs, 2),
        }
    row["anonymous MiB"] = round(max(run["fuse"]["MiB"] for run in cached))
    return row | {"baseline": f"read {', '.join(models)} {'once' if passes == 1 else 'twice'}, write one"}


def _run_both(folder: Path, method: str, forget: bool) -> dict[str, dict[str, float]]:
    found = {}
    for what in ("baseline", "fuse"):
        if forget:
            _drop_from_cache(folder)
        arguments = [sys.executable, "-m", "tests.benchmarks.fuse", str(folder), method, what]
        found[what] = json.loads(subprocess.run(arguments, stdout=subprocess.PIPE, check=True).stdout)
        shutil.rmtree(folder / "out")
    return found


def _drop_from_cache(folder: Path) -> None:
    """So that the files are read from the disk the next time; only what the disk holds can be dropped."""
    os.sync()
    for path in folder.rglob("*.safetensors"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        work(Path(sys.argv[1]), *sys.argv[2:])
    else:
        write_models(Path(sys.argv[1]), LAYERS["1B"])
