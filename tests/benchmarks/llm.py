"""Time of training and evaluating the embedded language model, as ratios to bare loops over the same rows.

A bare loop has its batches at hand as tensors, and does nothing but the model's products, the loss, clipping and the
same optimizer's step on the same weights. Rows are those of trec, ARC-Easy and WikiText-2, from the folder that
GRAFT_DATA names.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy, linear

from graft.errors import GraftError
from graft.files.location import locate
from graft.specs.runtime import Runtime
from graft.specs.train import TrainSpec
from graft.tasks.batches import pad_tokens
from graft.tasks.examples import Example
from graft.tasks.head import Head, open_head
from graft.tasks.task import Task
from graft.train.schedule import TrainingSchedule
from graft.train.stepper import Stepper
from tests.benchmarks.compose import Peak
from tests.benchmarks.llm_others import harness_scores, trainer_steps
from tests.benchmarks.timing import ratio_of, times_in_turn

BASE, TASKS = "embedded:SmolLM2-135M-Instruct", Path("recipes/tasks")
ROUNDS, BATCH = 9, 8
WORDS = "[short, description, thing, person, place, number]"
VERBALIZER = f'{{kind: verbalizer, template: "Question: {{text}}\\nType of answer: {{mask}}", words: {WORDS}}}'
FILES = {"verbalizer": "trec.yaml", "choice": "arc_easy_choice.yaml", "lm": "lm_wikitext2.yaml"}
SIZES = ((1, 1), (2, 1), (4, 1), (1, 2), (1, 4))  # times 32 tokens, times 4 texts
Row = dict[str, object]
Texts = list[tuple[list[int], int]]  # token ids, and the first that is predicted (of their number: the next one)


def measure(device: str = "cpu", rounds: int = ROUNDS, sizes: Sequence[tuple[int, int]] = SIZES) -> Iterator[Row]:
    """Rows for evaluation, for training, and for training at several lengths and batch sizes."""
    try:
        path = locate(BASE).path
        tasks = {kind: load_task(kind) for kind in FILES}
        examples = {kind: task.test_examples(64) for kind, task in tasks.items()}
    except GraftError as error:
        yield {"run": "not measured", "reason": str(error)}
        return
    for kind, task in tasks.items():
        head = open_head(path, task.spec, Runtime(device))
        yield from _evaluation(kind, head, examples[kind][:32], rounds, device)
        yield from _training(kind, head, path, examples[kind][:BATCH], rounds, device)
    head = open_head(path, tasks["lm"].spec, Runtime(device))
    for length, batch in sizes:
        texts = _texts(head, examples["lm"], length, batch)
        yield from _training(f"lm, {32 * length} tokens x {4 * batch}", head, path, texts, rounds, device)


def load_task(kind: str) -> Task:
    """The task of a head."""
    return Task.load(TASKS / FILES[kind], (f"head={VERBALIZER}",) if kind == "verbalizer" else ())


def texts_of(head: Any, examples: Sequence[Example]) -> Texts:
    """The tokens that a bare loop reads."""
    if head.task.head.kind == "choice":
        return [text for example in examples for text in head._encode(example).begun]
    if head.task.head.kind == "lm":
        return [(ids, 1) for _, ids in head._chunks(examples)]
    return [(read.ids, len(read.ids)) for read in head.encode([example.texts for example in examples])]


@dataclasses.dataclass
class Bare:
    """A batch at hand, and the model alone on it."""

    head: Head
    batch: dict[str, torch.Tensor]
    places: torch.Tensor  # of the tokens whose next one is predicted, in the flattened batch
    targets: torch.Tensor

    @classmethod
    def of(cls, head: Head, examples: Sequence[Example]) -> Bare:
        """Encode and pad; the target of a verbalizer is its label."""
        texts, device = texts_of(head, examples), head.device
        batch = {name: part.to(device) for name, part in pad_tokens([ids for ids, _ in texts], 2).items()}
        width = batch["input_ids"].shape[1]
        places = [row * width + i - 1 for row, (ids, start) in enumerate(texts) for i in range(start, len(ids) or 1)]
        targets = [token for ids, start in texts for token in ids[start:]]
        if head.task.head.kind == "verbalizer":
            places = [row * width + len(ids) - 1 for row, (ids, _) in enumerate(texts)]
            targets = [int(head.word_ids[example.label]) for example in examples]  # type: ignore[attr-defined]
        return cls(head, batch, torch.tensor(places, device=device), torch.tensor(targets, device=device))

    def logits(self) -> torch.Tensor:
        """Of the tokens that are read, (m, vocabulary)."""
        model = self.head.model
        states = model.model(**self.batch, use_cache=False).last_hidden_state
        return linear(states.flatten(0, 1)[self.places], model.lm_head.weight).float()

    @torch.inference_mode()
    def evaluate(self) -> torch.Tensor:
        """Log probabilities of the true tokens."""
        return self.logits().log_softmax(-1).gather(1, self.targets.unsqueeze(1))

    def step(self, stepper: Stepper, autocast: Callable[[], Any]) -> None:
        """Forward, backward, clipping, update."""
        with autocast():
            loss = cross_entropy(self.logits(), self.targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.head.model.parameters(), 1.0)
        stepper.optimizer.step()
        stepper.optimizer.zero_grad(set_to_none=True)
        loss.item()


def _evaluation(kind: str, head: Any, examples: Sequence[Example], rounds: int, device: str) -> list[Row]:
    ordered = sorted(examples, key=lambda example: example.n_characters)
    parts = [Bare.of(head, ordered[start : start + BATCH]) for start in range(0, len(ordered), BATCH)]
    ours = head.predict_columns if kind == "lm" else head.predict
    steps = {"ours": lambda: ours(examples, batch_size=BATCH), "bare": lambda: [part.evaluate() for part in parts]}
    if other := harness_scores(head, texts_of(head, examples), BATCH) if kind == "choice" else None:
        steps["lm-evaluation-harness"] = other
    return _rows(f"evaluate, {kind}, {len(examples)} rows", steps, rounds, device)


def _training(kind: str, head: Head, path: Path, examples: Sequence[Example], rounds: int, device: str) -> list[Row]:
    config = TrainSpec(optimizer="adamw", lr=1e-9, epochs=10**6, batch_size=len(examples))
    stepper = Stepper.start(head, TrainingSchedule((len(examples),), config, 0), path)
    is_mixed = next(head.model.parameters()).dtype == torch.float32
    autocast = (lambda: torch.autocast(device, torch.bfloat16)) if is_mixed else contextlib.nullcontext
    bare = Bare.of(head, examples)
    steps = {"ours": lambda: stepper.take(head, examples, 0), "bare": lambda: bare.step(stepper, autocast)}
    steps["transformers' Trainer"] = trainer_steps(head, stepper.optimizer, bare, is_mixed)
    return _rows(f"train, {kind}", steps, rounds, device)


def _rows(run: str, steps: dict[str, Callable[[], object]], rounds: int, device: str) -> list[Row]:
    times = times_in_turn(list(steps.items()), rounds, device)
    return [
        {
            "run": run,
            "by": by,
            "ms": round(sorted(times[by])[rounds // 2]),
            "x bare": ratio_of(times[by], times["bare"]),
            "peak MiB": _peak(step, device),
        }
        for by, step in steps.items()
    ]


def _peak(step: Callable[[], object], device: str) -> int:
    """MiB above what lies there between the steps."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        idle = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - idle) >> 20
    ctypes.CDLL(None).malloc_trim(0)  # what was freed and kept would hide what is needed
    before, peak = Peak.now(), Peak(every=0.001)
    step()
    return peak.stop() - before // 1024


def _texts(head: Any, examples: Sequence[Example], length: int, batch: int) -> list[Example]:
    """Texts of 32 x `length` tokens, 4 x `batch` of them."""
    ids = head.tokenizer(" ".join(example.texts[0] for example in examples))["input_ids"]
    n = 32 * length
    return [Example((head.tokenizer.decode(ids[i * n : (i + 1) * n]),), 0) for i in range(4 * batch)]
