"""Many skills in one batch of the embedded language model, against the base alone and against other ways to serve them.

As many skills as rows, each row with its own: random entries over all matrices of the layers, the hardest case, since
learned masks share columns. Prefill computes a text of 32 tokens a row and the logits of its last; decoding one more
token a row. Skill by skill: each row alone, with its patch grafted and taken off again.
"""

from __future__ import annotations

import contextlib
import copy
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import peft
import torch
from transformers import AutoModelForCausalLM

import graft
from graft.errors import GraftError
from graft.files.location import locate
from graft.patch.skill_patch import Patch
from graft.tasks.placement import speed_up_products
from tests.benchmarks.live import draw_patch
from tests.benchmarks.live_peft import LINEAR
from tests.benchmarks.timing import Step, ratio_of, times_in_turn

BASE, TOKENS = "embedded:SmolLM2-135M-Instruct", 32
SIZES = {torch.float32: (8, 32, 64), torch.bfloat16: (8, 32, 64)}
Row = dict[str, object]


class Texts:
    """A batch of texts, and the cache that the base has after them.

    Args:
        model: the base.
        n_rows: texts.
    """

    def __init__(self, model: torch.nn.Module, n_rows: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(0, 40_000, (n_rows, TOKENS), generator=generator)
        self.next = torch.randint(0, 40_000, (n_rows, 1), generator=generator)
        parts = [(0, n_rows), *((row, row + 1) for row in range(n_rows))]
        self._caches = {(start, stop): model(self.ids[start:stop], logits_to_keep=1).past_key_values
                        for start, stop in parts}  # fmt: skip

    def run(self, phase: str, model: Any, rows: slice | None = None, **options: object) -> torch.Tensor:
        """The logits of the texts' last tokens, or of one token more."""
        rows = rows or slice(0, len(self.ids))
        if phase == "prefill":
            found: torch.Tensor = model(self.ids[rows], logits_to_keep=1, use_cache=False, **options).logits
            return found
        cache = self._caches[rows.start, rows.stop]
        logits: torch.Tensor = model(self.next[rows], past_key_values=cache, logits_to_keep=1, **options).logits
        cache.crop(-1)  # the token that was added
        return logits


@torch.no_grad()
def measure(
    device: str = "cpu",
    rounds: int = 3,
    sizes: Mapping[torch.dtype, Sequence[int]] = SIZES,
    densities: Sequence[float] = (1e-4, 1e-3),
) -> Iterator[Row]:
    """One row a dtype, number of rows, density and phase: milliseconds of the base, the others as multiples of it."""
    try:
        path = locate(BASE).path
    except GraftError as error:
        yield {"run": "not measured", "reason": str(error)}
        return
    for dtype in sizes:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(device).eval()
        speed_up_products(model)  # as every command does, where the processor is slow at bfloat16
        for n_rows in sizes[dtype]:
            texts = Texts(model, n_rows)
            with contextlib.ExitStack() as stack:
                loras = {rank: stack.enter_context(adapted(model, rank, n_rows)) for rank in (8, 16)}
                for density in densities:
                    patches = {f"skill {seed}": draw_patch(model, density, seed) for seed in range(n_rows)}
                    for phase in ("prefill", "decoding"):
                        found = _measure(phase, texts, model, patches, loras, rounds, device)
                        yield found | {"density": density}


@contextlib.contextmanager
def adapted(model: torch.nn.Module, rank: int, n: int) -> Iterator[Any]:
    """PEFT's model with so many adapters of a rank on every linear layer of the layers, in a copy of the model."""
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=LINEAR, init_lora_weights=False)
    lora: Any = peft.get_peft_model(copy.deepcopy(model), config, adapter_name="skill 0")  # type: ignore[arg-type]
    for number in range(1, n):
        lora.add_adapter(f"skill {number}", config)
    yield lora.eval()


def _measure(
    phase: str,
    texts: Texts,
    model: torch.nn.Module,
    patches: Mapping[str, Patch],
    loras: Mapping[int, Any],
    rounds: int,
    device: str,
) -> Row:
    prepared = [graft.prepare_patch(model, patch) for patch in patches.values()]
    with graft.serve_patches(model, patches) as mixed:
        steps: list[Step] = [("base", lambda: texts.run(phase, model))]
        steps += [("ours", _mixed(phase, texts, mixed, False)), ("exact", _mixed(phase, texts, mixed, True))]
        steps += [("one by one", partial(_one_by_one, phase, texts, model, prepared))]
        steps += [(f"LoRA r{rank}", partial(texts.run, phase, lora, adapter_names=list(patches)))
                  for rank, lora in loras.items()]  # fmt: skip
        times = times_in_turn(steps, rounds, device)
    base = times.pop("base")
    row: Row = {"dtype": str(model.dtype).removeprefix("torch."), "phase": phase, "rows": len(patches)}
    row |= {"base, ms": round(statistics.median(base))}
    return row | {f"{name}, x base": ratio_of(found, base) for name, found in times.items()}


def _mixed(phase: str, texts: Texts, mixed: graft.MixedModel, exact: bool) -> Callable[[], object]:
    rows = mixed.assign(mixed.names)

    def run() -> object:
        with mixed.skills(rows, exact=exact):
            return texts.run(phase, mixed.model)

    return run


def _one_by_one(phase: str, texts: Texts, model: torch.nn.Module, prepared: Sequence[graft.PreparedPatch]) -> None:
    for row, patch in enumerate(prepared):
        with patch.apply():
            texts.run(phase, model, slice(row, row + 1))
