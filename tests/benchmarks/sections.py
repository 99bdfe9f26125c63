"""The sections of artifacts/benchmarks.md, in their order: a line here is all that a new benchmark needs.

A module's `measure()` gives the rows of its table; with `on_gpu` it takes `device="cuda"` too.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Section:
    """One table.

    Attributes:
        name: what the command line calls it.
        title: its heading.
        intro: what is measured, against what.
        module: of this folder, with a function `measure`; imported when it runs.
        options: of that function.
        on_gpu: whether `measure` takes device="cuda".
    """

    name: str
    title: str
    intro: str
    module: str
    options: Mapping[str, Any] = field(default_factory=dict)
    on_gpu: bool = False

    def measure(self, **more: object) -> Iterator[dict[str, object]]:
        """The rows, as they come."""
        module = importlib.import_module(f"tests.benchmarks.{self.module}")
        yield from module.measure(**self.options, **more)


SIZE = "Bound: log2 C(N, k) bits and 16 bits a value. Random masks over the layers of real geometries; entries "
CLOCK = "on the CPU of one thread's own time"
EVEN, UNEVEN = "spread uniformly", "that favor some tensors"
SECTIONS = (
    Section("size", f"Size of a patch file at density 1e-4 in bf16, entries {EVEN}", f"{SIZE}{EVEN}.", "size"),
    Section("size-uneven", f"Size of a patch file at density 1e-4 in bf16, entries {UNEVEN}",
            f"{SIZE}{UNEVEN} (share times a lognormal factor, sigma 1.5).", "size", {"concentration": 1.5}),
    Section("speed", "Time on the embedded encoder (22.7M parameters, fp32)", "Medians of 15 runs in turn, in "
            "processor time; those of apply by the clock.", "speed"),
    Section("streaming", "Streaming over sharded checkpoints of a Llama in bf16",
            "Each command and its baseline in a process of its own, in turn, medians of three; files in the page "
            "cache. Memory: the highest anonymous memory above the imported interpreter.", "streaming"),
    Section("huge", "A tensor of more than 2^31 elements through whole commands",
            "Sparse checkpoints in bf16 of 4 GiB each; five weights moved, on both sides of element 2^31. The merged "
            "file is then compared with the tuned one, bit for bit. Memory as above.", "huge"),
    Section("localize", "Localizing a skill in a random-weight Llama (fp32 on the CPU, bf16 on a GPU)",
            "Against a forward and backward of the same micro-batch whose gradients are freed as they come, and beside "
            "a straightforward version with three models, dense logits and dense gradients. Peak anonymous memory "
            "above the imported interpreter; weights are copied out of their mapped files in every way.",
            "localize_scale",
            on_gpu=True),
    Section("candidates", "Attribution in one model's memory, against exact scores of every weight",
            "trec on the embedded encoder, as in recipes/trec.yaml and trec_adamw.yaml; accuracy on test (500 rows). "
            "Candidates: 8 micro-batches, the best 5 k of each. Learned masks search among 10 k.", "candidates"),
    Section("processes", "The mask of two processes, beside one process's",
            "Attribution over 2 points on the embedded encoder tuned on film reviews, the same micro-batches of 32; "
            "two Gloo processes. The share of one process's entries that are among theirs.", "processes"),
    Section("live", "A patch on and off a live Llama of 1.1B parameters in bf16",
            "Prepared once, then on and off: checking, reading the originals, writing; against bare writes of the same "
            f"entries with everything at hand. Medians of 25 rounds in turn, {CLOCK}.", "live", on_gpu=True),
    Section("live-peft", "A patch on and off the same live model, beside merging PEFT's adapters",
            f"LoRA adds B x A to the weights and subtracts it again, SHiRA sparse differences. Medians, {CLOCK}.",
            "live_peft", on_gpu=True),
    Section("protection", "Training with a core protected, against a plain step",
            "Forward, backward, clipping and fused AdamW of a Llama, a random share of each tensor protected. CPU: 31M "
            "weights in fp32, 512 tokens a step, processor time. GPU: 1.0B in bf16, 2,048 tokens. Median of the ratios "
            "in 30 rounds of turns, with its 95 % bootstrap interval.", "protection", on_gpu=True),
    Section("refit", "Refit on the embedded encoder, beside the training that made its teacher",
            "The starter film reviews, each run in a process of its own, one thread, processor time; the texts are the "
            "256 of the training split, repeated. Peak anonymous memory above the imported interpreter.", "refit"),
    Section("narrow-products", "Products in bfloat16 in fp32, rounded once, against torch's own",
            "What a CPU without such instructions is given (`graft.tensors.wide_products`). Medians in turn, in "
            "processor time.", "narrow_products"),
    Section("llm", "Training and evaluation of a language model, beside bare loops",
            "SmolLM2-135M-Instruct. A bare loop has its batches as tensors at hand, the same rows in the same batches, "
            "and computes the same products; choices one row each there. A step is forward, backward, clipping, AdamW. "
            "transformers' Trainer and lm-evaluation-harness on the same rows. Median of the ratios in turns, with its "
            f"95 % bootstrap interval, {CLOCK}; peak anonymous memory above the models.", "llm", on_gpu=True),
    Section("importance", "Importance against EWC's, on the embedded encoder",
            "CPU seconds of one thread; 10.6M weights, 200 examples, batches of 8.", "importance"),
    Section("compose", "Ten patches of an 8B model in bf16",
            "Time without imports, by the clock and of the processor, since the machine is shared; the highest "
            "anonymous memory of the process, torch included.", "compose"),
    Section("fuse", "Fusing two models in bf16 into one",
            "Against reading the models once (slerp) or base and models twice (cpi, ties) and writing one; each run a "
            "process of its own, by turns, medians of three; synced to the disk; files in the page cache, and for the "
            "last seconds on the disk alone. The machine is shared: the processor's own seconds stand beside those of "
            "the clock. Anonymous memory is the whole process's, torch included.", "fuse"),
    Section("adapters", "A patch of a 1.1B model in bf16 as an exact LoRA adapter",
            "800,000 entries in few rows and columns of each matrix, as learned masks lie, and the same number at "
            f"random in a few matrices; all of `graft export --to lora`, imports apart, {CLOCK}.",
            "adapters"),
    Section("mixture", "Many skills in one batch of the embedded language model",
            "As many skills as rows, each row with its own; random entries over the matrices of all layers. Prefill: "
            f"32 tokens a row and the logits of the last; decoding: one token more a row. Medians of ratios, {CLOCK}, "
            "with 95 % intervals; one by one: each row alone, its patch grafted and taken off.", "mixture"),
    Section("mixture-rows", "Rows of a mixed batch beside the rows of each skill's grafted model",
            "Up to eight rows of a batch against the same rows of their own grafted models on the same batch; skills "
            "of random entries at 1e-4. Exact: what a skill touches is computed anew from its own weights.",
            "mixture_rows"),
    Section("mixture-scale", "A thousand skills on the embedded encoder",
            f"Skills of random entries at 1e-4, {CLOCK}.", "mixture_scale"),
    Section("serving", "The server on the embedded encoder with 50 skills",
            "Embeddings of single texts, every request with a skill drawn anew, clients in a process of their own; "
            "mixed batches beside the same server whose batches are taken apart by skill, in turn. By the clock, one "
            "thread for the model.", "serving"),
    Section("guards", "What nobody should have to wait for", f"Medians of three, {CLOCK}.", "guards"),
)  # fmt: skip
