"""Time and memory of composing ten patches of an 8B model: synthetic patches, each run in a process of its own.

The base is a sparse file of zeros in the model's shapes, so that the disk holds nothing and reads cost what a cached
base's would. Anonymous memory is what counts against a machine: pages mapped from the base's file can go at any time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

import graft
from graft.files.tensor_spec import TensorSpec
from graft.patch.format.writing import save_patch
from graft.patch.mask import Mask
from graft.patch.overlap_rules import OverlapRule
from graft.patch.provenance import BaseIdentity, Provenance
from graft.patch.skill_patch import Patch
from graft.tensors.hashing import hash_values

N_PATCHES, ENTRIES = 10, 800_000


def measure() -> list[dict[str, object]]:
    """One row per operation: its seconds without imports by two clocks, and the peak of anonymous memory in MiB."""
    specs = _shapes()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_zeros(folder / "base.safetensors", specs)
        for i in range(N_PATCHES):
            save_patch(_draw_patch(specs, i), folder / f"{i}.safetensors")
        cases = [("compose, sign, stored base values", "sign", ""), ("compose, sign, --base", "sign", "base")]
        rows = [_run(folder, f"{what} ({N_PATCHES} x {ENTRIES:,})", rule, base) for what, rule, base in cases]
        return [*rows, _run(folder, "exclude nine from one", "exclude", ""), _run(folder, "overlap", "overlap", "")]


def work(folder: Path, what: str, base: str) -> None:
    """One operation; prints its seconds, those of the processor, and MiB."""
    paths = [folder / f"{i}.safetensors" for i in range(N_PATCHES)]
    peak = Peak(every=0.02)
    start, before = time.perf_counter(), time.process_time()
    if what == "overlap":
        graft.measure_overlap(*paths)
    elif what == "exclude":
        save_patch(graft.exclude_patches(paths[0], *paths[1:]), folder / "out.safetensors", force=True)
    else:
        rule: OverlapRule = "sign" if what == "sign" else "error"
        composed = graft.compose_patches(*paths, on_overlap=rule, base=folder / "base.safetensors" if base else None)
        save_patch(composed, folder / "out.safetensors", force=True)
    took = {"s": round(time.perf_counter() - start, 2), "processor s": round(time.process_time() - before, 2)}
    print(json.dumps(took | {"anonymous MiB": peak.stop()}))


def _run(folder: Path, name: str, what: str, base: str) -> dict[str, object]:
    arguments = [sys.executable, "-m", "tests.benchmarks.compose", str(folder), what, base]
    found: dict[str, object] = json.loads(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)
    return {"operation": name} | found


class Peak:
    """The highest anonymous memory of this process, looked at every few milliseconds or as often as is said (s)."""

    def __init__(self, every: float = 0.005) -> None:
        self._every = every
        self._highest = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> int:
        """MiB."""
        self._over.set()
        self._thread.join()
        return round(self._highest / 1024)

    @staticmethod
    def now() -> int:
        """KiB of anonymous memory at the moment."""
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) for line in lines if "RssAnon" in line)

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            self._highest = max(self._highest, self.now())


def _shapes() -> Mapping[str, TensorSpec]:
    """The layers of an 8B Llama, 32 blocks."""
    block = {"q_proj": (4096, 4096), "k_proj": (1024, 4096), "v_proj": (1024, 4096), "o_proj": (4096, 4096)}
    block |= {"gate_proj": (14336, 4096), "up_proj": (14336, 4096), "down_proj": (4096, 14336)}
    names = {f"model.layers.{i}.{name}.weight": shape for i in range(32) for name, shape in block.items()}
    return {name: TensorSpec("BF16", shape) for name, shape in names.items()}


def _draw_patch(specs: Mapping[str, TensorSpec], seed: int) -> Patch:
    """Half of the entries from places that all patches favor, so that they meet; base values of 0, stored."""
    common, own = np.random.default_rng(0), np.random.default_rng(seed + 1)
    total = sum(spec.numel for spec in specs.values())
    indices = {}
    for name, spec in specs.items():
        k = round(ENTRIES * spec.numel / total)
        favored = common.integers(0, spec.numel, 4 * k)
        indices[name] = np.concatenate([own.choice(favored, k // 2), own.integers(0, spec.numel, k - k // 2)])
    mask = Mask.of(specs, indices)
    generator = torch.Generator().manual_seed(seed)
    values = {name: torch.randn(len(mask[name]), generator=generator).bfloat16() for name in mask}
    base = {name: torch.zeros_like(value) for name, value in values.items()}
    prints = {name: hash_values(value) for name, value in base.items()}
    identity = BaseIdentity("org/model", "0" * 40, "model", "0" * 64, 8_030_261_248)
    return Patch(mask, values, prints, Provenance(base=identity), base)


def write_zeros(path: Path, specs: Mapping[str, TensorSpec]) -> None:
    """A safetensors file of zeros in 16 bits each, which takes a block of the disk: the rest is a hole."""
    header, end = {}, 0
    for name, spec in specs.items():
        header[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [end, end + 2 * spec.numel]}
        end += 2 * spec.numel
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


if __name__ == "__main__":
    work(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
