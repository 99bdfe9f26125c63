"""Time and memory of fusing two models against reading both and writing one, each run in a process of its own.

`python -m tests.benchmarks.fuse` with a number of layers makes models of about that many times 61M parameters (bf16,
2048 wide, and 131M of embeddings); 14 layers are a billion.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from graft.compose.fusion import fuse_models
from graft.compose.fusion_spec import FusionSpec
from graft.tensors.checkpoint import Checkpoint
from tests.benchmarks.compose import Peak

METHODS = ("slerp", "cpi", "ties")
SHAPES = {"q": (2048, 2048), "k": (512, 2048), "v": (512, 2048), "o": (2048, 2048)}
SHAPES |= {"gate": (8192, 2048), "up": (8192, 2048), "down": (2048, 8192)}


def measure(layers: int = 2) -> list[dict[str, object]]:
    """One row per method: seconds, the baseline's seconds, their ratio, and the peak of anonymous memory in MiB."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed, model in enumerate(("base", "a", "b")):
            _write_model(folder / model, layers, seed)
        return [_compare(folder, method) for method in METHODS]


def work(folder: Path, method: str) -> None:
    """One fusion; prints its seconds and MiB."""
    peak, start = Peak(), time.perf_counter()
    fuse_models(folder / "base", [folder / "a", folder / "b"], folder / "out", FusionSpec(method))  # type: ignore[arg-type]
    print(json.dumps({"s": round(time.perf_counter() - start, 2), "anonymous MiB": peak.stop()}))


def read_and_write(folder: Path, passes: int, models: tuple[str, ...]) -> float:
    """Seconds to read models so many times, every weight by the processor, and to write one to the disk."""
    start = time.perf_counter()
    for _ in range(passes):
        for model in models:
            checkpoint = Checkpoint.open(folder / model)
            for name in checkpoint.names:
                checkpoint.read(name).view(torch.int16).max()
    shutil.copyfile(folder / "base" / "model.safetensors", folder / "copy")
    with (folder / "copy").open("rb") as written:
        os.fsync(written.fileno())  # as the fusion's output is
    return time.perf_counter() - start


def _compare(folder: Path, method: str) -> dict[str, object]:
    models, passes = (("a", "b"), 1) if method == "slerp" else (("base", "a", "b"), 2)
    baseline = read_and_write(folder, passes, models)
    arguments = [sys.executable, "-m", "tests.benchmarks.fuse", str(folder), method]
    found = json.loads(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)
    shutil.rmtree(folder / "out")
    what = f"read {' and '.join(models)} {'once' if passes == 1 else 'twice'}, write one"
    ratio = {"baseline": what, "baseline s": round(baseline, 2), "ratio": round(found["s"] / baseline, 2)}
    return {"operation": f"fuse, {method}", "s": found["s"], **ratio, "anonymous MiB": found["anonymous MiB"]}


def _write_model(folder: Path, layers: int, seed: int) -> None:
    """Random weights; the tuned ones lie a little beside the base's."""
    folder.mkdir()
    shapes = {f"model.layers.{i}.{name}.weight": shape for i in range(layers) for name, shape in SHAPES.items()}
    shapes["model.embed_tokens.weight"] = (64128, 2048)
    tensors = {}
    for i, (name, shape) in enumerate(shapes.items()):
        tensors[name] = 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(i))
        if seed:
            tensors[name] += 1e-3 * torch.randn(shape, generator=torch.Generator().manual_seed(1000 * seed + i))
        tensors[name] = tensors[name].bfloat16()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    if len(sys.argv) == 3:
        work(Path(sys.argv[1]), sys.argv[2])
    else:
        for row in measure(int(sys.argv[1]) if sys.argv[1:] else 2):
            print(row)
