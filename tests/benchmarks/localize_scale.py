"""Memory and time of localizing against a plain forward and backward, over four sizes of a random-weight Llama.

Each figure comes from a process of its own. Memory is the peak of anonymous memory above the imported interpreter, or
of the CUDA allocator; weights are copied out of their mapped files first, since what is mapped would not count as long
as nothing is written to it, and every way but the baseline writes. The baseline is a forward and backward of the same
micro-batch over the same weights, whose gradients are freed as they come. Times alternate with the baseline's in one
process, and their medians are divided. Beside them stands a straightforward version: three models, dense logits, dense
gradients.

`python -m tests.benchmarks.localize_scale SIZE...` measures some sizes; `measure(device="cuda")` is for up to 8B on a
GPU, and has not been run yet.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from graft.localize import localization
from graft.localize.learned import MaskLearner
from graft.memory.localize import plan_localization
from graft.scores.candidate_search import CandidateSearch
from graft.scores.candidates import Candidates
from graft.scores.gradient_path import GradientPath
from graft.scores.gradients import GradientSink
from graft.specs.localize import LearnSpec, LocalizeSpec
from graft.specs.runtime import Runtime
from graft.tasks.head import Head, spread_head
from graft.tasks.task import Task
from graft.tensors.pair import CheckpointPair
from tests.benchmarks.compose import Peak
from tests.models import VERBALIZER, WORDS, word_tokenizer, write_task

TITLE = "Localizing a skill in a random-weight Llama (fp32 on the CPU, bf16 on a GPU)"
SIZES = {  # hidden, intermediate, layers, heads, heads of keys and values, vocabulary
    "0.06B": (512, 1536, 14, 8, 4, 32_000),
    "0.13B": (768, 2048, 16, 12, 6, 32_000),
    "0.35B": (1024, 4096, 20, 16, 8, 32_000),
    "1.0B": (2048, 5632, 22, 32, 4, 32_000),
    "2.8B": (2560, 8704, 32, 32, 8, 32_000),
    "8B": (4096, 14336, 32, 32, 8, 128_256),
}
ON = {"cpu": ("0.06B", "0.13B", "0.35B", "1.0B"), "cuda": ("0.35B", "1.0B", "2.8B", "8B")}
STRAIGHTFORWARD = {"cpu": ("0.06B", "0.13B", "0.35B"), "cuda": ("0.35B", "1.0B", "2.8B")}  # where it fits
BATCH, STEPS = 2, 3
CONFIG = LocalizeSpec("learned", points=2, batch_size=BATCH, learn=LearnSpec(epochs=1, batch_size=BATCH))

Row = dict[str, object]


def measure(device: str = "cpu", sizes: Sequence[str] = ()) -> list[Row]:
    """One row per size, and one with the slopes: bytes per parameter of each way, by least squares."""
    rows = [_measure_size(size, device) for size in sizes or ON[device]]
    slopes: Row = dict.fromkeys(rows[0], "")
    slopes["parameters"] = "slope, bytes per parameter"
    for column in ("plain MiB", "localize MiB", "planned MiB", "straightforward MiB"):
        points = [(row["parameters"], row[column]) for row in rows if row[column] != ""]
        if len(points) > 1:
            x, y = np.array(points, dtype=float).T
            slopes[column] = round(float(np.polyfit(x, y * 2**20, 1)[0]), 2)
    return [*rows, slopes]


def _measure_size(size: str, device: str) -> Row:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        n = write_pair(folder, size, torch.float32 if device == "cpu" else torch.bfloat16)
        ways = ["plain", "localize", "times", *(["straightforward"] if size in STRAIGHTFORWARD[device] else [])]
        found = {way: _run(folder, way, device) for way in ways}
    plain, lean, times = (found[way] for way in ("plain", "localize", "times"))
    return {
        "parameters": n,
        "plain MiB": plain["MiB"],
        "localize MiB": lean["MiB"],
        "ratio": round(lean["MiB"] / plain["MiB"], 3),
        "planned MiB": lean["planned MiB"],
        "plain s": times["plain"],
        "mask step s": times["mask step"],
        "its ratio": round(times["mask step"] / times["plain"], 3),
        "candidate step s": times["candidate step"],
        "straightforward MiB": found.get("straightforward", {}).get("MiB", ""),
        "its s": found.get("straightforward", {}).get("s", ""),
    }


def _run(folder: Path, way: str, device: str) -> dict[str, Any]:
    arguments = [sys.executable, "-m", "tests.benchmarks.localize_scale", str(folder), way, device]
    found: dict[str, Any] = json.loads(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)
    return found


def write_pair(folder: Path, size: str, dtype: torch.dtype) -> int:
    """Base and tuned checkpoints in one shard per layer, and a task of words; the number of parameters."""
    hidden, intermediate, layers, heads, kv_heads, vocabulary = SIZES[size]
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, vocab_size=vocabulary, max_position_embeddings=64, tie_word_embeddings=True,
        dtype=dtype, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in LlamaForCausalLM(config).named_parameters()}
    for model in ("base", "tuned"):
        config.save_pretrained(folder / model)
        word_tokenizer(WORDS, pad_token="[PAD]", eos_token="[SEP]").save_pretrained(folder / model)
    shards: dict[str, list[str]] = {}
    for name in shapes:
        shards.setdefault(name.split(".")[2] if ".layers." in name else "rest", []).append(name)
    for number, names in enumerate(shards.values()):
        _write_shard(folder, number, {name: shapes[name] for name in names}, dtype)
    index = {name: f"model-{i:03}.safetensors" for i, names in enumerate(shards.values()) for name in names}
    for model in ("base", "tuned"):
        text = json.dumps({"metadata": {}, "weight_map": index})
        (folder / model / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    write_task(folder / "task", head=VERBALIZER, shots=4)
    return sum(shape.numel() for shape in shapes.values())


def _write_shard(folder: Path, number: int, shapes: dict[str, torch.Size], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(number)
    base, tuned = {}, {}
    for name, shape in shapes.items():
        drawn = 0.02 * torch.randn(shape, generator=generator)
        base[name] = (drawn if len(shape) > 1 else torch.ones(shape)).to(dtype)
        tuned[name] = base[name] + (1e-3 * torch.randn(shape, generator=generator)).to(dtype)
    for model, tensors in (("base", base), ("tuned", tuned)):
        save_file(tensors, folder / model / f"model-{number:03}.safetensors", metadata={"format": "pt"})


class Nothing(GradientSink):
    """The baseline's: every gradient is freed as it comes."""

    def receive(self, name: str, gradient: torch.Tensor) -> None:
        """Nothing stays."""


class Memory:
    """The peak of a piece of work, above what was there when it began."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.before = Memory._now() if device == "cpu" else 0
        self.peak = Peak() if device == "cpu" else None

    def stop(self) -> int:
        """MiB."""
        if self.peak is None:
            return round(torch.cuda.max_memory_allocated() / 2**20)
        return self.peak.stop() - self.before

    @staticmethod
    def _now() -> int:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(round(int(line.split()[1]) / 1024) for line in lines if "RssAnon" in line)


def work(folder: Path, way: str, device: str) -> None:
    """One way in this process; prints what it measured."""
    localization.spread_head = _open_copied  # type: ignore[assignment]
    _warm_up(folder)
    memory = Memory(device)
    found = {"plain": _plain, "localize": _localize, "times": _times, "straightforward": _straightforward}[way](
        folder, device
    )
    print(json.dumps({"MiB": memory.stop(), **found}))


def _warm_up(folder: Path) -> None:
    """What is imported and set up at first use belongs to the interpreter."""
    config = LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
    tokens = AutoTokenizer.from_pretrained(folder / "base")("the film")["input_ids"]
    LlamaForCausalLM(config)(input_ids=torch.zeros((1, len(tokens)), dtype=torch.int64)).logits.sum().backward()


def _open_copied(path: Path, task: Any, runtime: Runtime, **options: Any) -> Head:
    head = spread_head(path, task, runtime, **options)
    for weight in head.model.parameters():
        weight.data = weight.data.clone()
    return head


def _open(folder: Path, device: str) -> GradientPath:
    task = Task.load(folder / "task" / "task.yaml")
    pair = CheckpointPair.open(folder / "base", folder / "tuned")
    names = [name for name in pair.names if ".layers." in name]
    head = _open_copied(folder / "base", task.spec, Runtime(device))
    return GradientPath(head, pair, names, task.train_examples(), batch_size=BATCH, class_debias=False)


def _plain(folder: Path, device: str) -> dict[str, Any]:
    _open(folder, device).stream_gradients(Nothing(), micro_batches=2)
    return {}


def _localize(folder: Path, device: str) -> dict[str, Any]:
    task = Task.load(folder / "task" / "task.yaml")
    localization.localize_skill(folder / "base", folder / "tuned", task, CONFIG, device=device)
    planned = plan_localization(folder / "base", task, CONFIG, runtime=Runtime(device=device))
    return {"planned MiB": round(planned.total("host" if device == "cpu" else "device") / 2**20)}


def _times(folder: Path, device: str) -> dict[str, Any]:
    path = _open(folder, device)
    groups = [(tuple(path.weights), round(1e-4 * path.pair.base.n_parameters))]
    path.stream_gradients(search := CandidateSearch(path.pair, groups, CONFIG.candidates.multiple), micro_batches=2)
    candidates = Candidates(path.pair, path.weights, search.mask, groups)
    learner = MaskLearner(
        path.head, candidates, torch.rand(len(candidates)), path.examples[:BATCH], CONFIG.learn, class_debias=False
    )
    steps: dict[str, Callable[[], object]] = {
        "plain": lambda: path.stream_gradients(Nothing(), micro_batches=1),
        "mask step": lambda: learner.run_epoch(torch.Generator()),  # of one micro-batch
        "candidate step": lambda: path.stream_gradients(CandidateSearch(path.pair, groups, 5), micro_batches=1),
    }
    path.examples = path.examples[:BATCH]
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(STEPS):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if device != "cpu":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    return {name: round(statistics.median(taken), 3) for name, taken in times.items()}


def _straightforward(folder: Path, device: str) -> dict[str, Any]:
    """As the published code does it: a third model holds the mix, logits and gradients are dense."""
    task = Task.load(folder / "task" / "task.yaml")
    base, tuned, mixed = (_open_copied(folder / name, task.spec, Runtime(device)) for name in ("base", "tuned", "base"))
    tensors = [dict(head.model.named_parameters()) for head in (base, tuned, mixed)]
    names = [name for name in tensors[0] if ".layers." in name]
    logits = {name: torch.rand_like(tensors[0][name]) for name in names}
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        _step(mixed, tensors, logits, task.train_examples()[:BATCH])
        seconds.append(time.perf_counter() - start)
    return {"s": round(min(seconds), 3)}


def _step(head: Any, tensors: list[dict[str, torch.Tensor]], logits: dict[str, torch.Tensor], batch: Any) -> None:
    base, tuned, mixed = tensors
    with torch.no_grad():
        for name, logit in logits.items():
            mixed[name].copy_(base[name] + torch.sigmoid(logit - 10) * (tuned[name] - base[name]))
    head.loss(batch).backward()
    with torch.no_grad():
        for name, logit in logits.items():
            opened, gradient = torch.sigmoid(logit - 10), mixed[name].grad
            assert gradient is not None
            logit -= 1e7 * gradient * (tuned[name] - base[name]) * opened * (1 - opened)
    head.model.zero_grad(set_to_none=True)


if __name__ == "__main__":
    if len(sys.argv) == 4 and Path(sys.argv[1]).is_dir():
        work(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
    else:
        for row in measure(sizes=sys.argv[1:]):
            print(row)
