"""Program of each of two processes, run by torchrun. The first writes the results as JSON; at last both run `graft`."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
from graft_cli.entry import main as graft
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

from graft.localize.diff import diff_checkpoints
from graft.localize.localization import localize_skill
from graft.parallel.launch import find_ranks
from graft.patch.format.writing import save_patch
from graft.refit.refit import refit_skill
from graft.specs.localize import LearnSpec, LocalizeSpec
from graft.specs.refit import RefitSpec
from graft.tasks.task import Task
from graft.tensors.dtypes import assign, same_bits, take
from graft.tensors.shards import local_of, shard_of
from graft.train.fine_tuning import train_task
from tests.parallel import protected

SPEAKING = "now the command speaks"
TRAININGS: dict[str, dict[str, Any]] = {
    "sgd": {"l1": 1e-4, "epochs": 1},
    "micro": {"micro_batch_size": 3, "steps": 8},
    "adamw": {"optimizer": "adamw", "lr": 1e-3, "batch_size": 5, "epochs": 1},  # 128 examples: the last batch has 3
}
ANSWERS: dict[str, dict[str, Any]] = {  # task -> how: 96 rows, so that the last batch of the first has 1
    "answers": {"batch_size": 5},
    "chats": {"batch_size": 8, "micro_batch_size": 3},  # parts whose answers have different numbers of tokens
    "cut": {"batch_size": 8, "micro_batch_size": 3},  # rows of whose answers nothing is learned
}
REFITS: dict[str, dict[str, Any]] = {  # how, and the engines that can
    "gradient": {"rounds": 2, "engines": ("ddp",)},
    "given": {"engines": ("ddp", "fsdp")},
}
SEARCHES = {
    "attribution": LocalizeSpec(budget=60, points=3, batch_size=12),
    "learned": LocalizeSpec(
        budget=60, points=2, batch_size=12, method="learned", learn=LearnSpec(batch_size=48, micro_batch=10, epochs=2)
    ),
}


def train(folder: Path, name: str, out: Path, *, config: Any = None, **how: Any) -> float:
    """Train; return the last accuracy on validation."""
    task = Task.load(folder / "toy" / "task.yaml")
    config = dataclasses.replace(task.spec.train, **{**TRAININGS[name], **(config or {})})
    return train_task(folder / "base", task, out, config=config, **how).epochs[-1].validation_accuracy


def train_answers(folder: Path, name: str, out: Path, **how: Any) -> float:
    """Train the completion head; return the mean loss of the epoch, in nats."""
    task = Task.load(folder / name / "task.yaml")
    plain = {"optimizer": "sgd", "lr": 0.02, "clip": 100.0, "epochs": 1}  # no clipping: it would hide a factor
    config = dataclasses.replace(task.spec.train, **plain, **ANSWERS[name])
    loss: float = train_task(folder / "chatting", task, out, config=config, **how).epochs[0].loss
    return loss


def localize(folder: Path, name: str, **how: Any) -> Any:
    task = Task.load(folder / "toy" / "task.yaml")
    return localize_skill(folder / "base", folder / "tuned", task, SEARCHES[name], **how)


def refit(folder: Path, name: str, **how: Any) -> Any:
    task = Task.load(folder / "toy" / "task.yaml")
    more = {key: value for key, value in REFITS[name].items() if key != "engines"}
    config = RefitSpec(budget=60, lr=0.02, epochs=2, batch_size=15, texts=64, **more)  # the last batch has 4
    support = diff_checkpoints(folder / "base", folder / "tuned", budget=60) if name == "given" else None
    return refit_skill(folder / "base", folder / "tuned", task, config, support=support, **how)


def check_shards() -> dict[str, bool]:
    """Compare take and assign on DTensors with the full tensors, uneven and empty shards among them."""
    mesh, agrees = init_device_mesh("cpu", (2,)), {}
    for shape, dimension, dtype in (
        ((5, 3), 0, torch.bfloat16),
        ((5, 3), 1, torch.float32),
        ((1, 4), 0, torch.float64),
        ((3,), 0, torch.float16),
    ):
        full = torch.arange(torch.Size(shape).numel()).sub(3).reshape(shape).to(dtype)
        full.view(-1)[0] = -0.0
        spread = distribute_tensor(full.clone(), mesh, [Shard(dimension)])
        everywhere, indices = torch.arange(full.numel()), torch.tensor([0, full.numel() - 1, 1])
        same = same_bits(take(spread, everywhere), full.flatten())
        same &= same_bits(shard_of(spread).cut(full).contiguous(), local_of(spread).contiguous())
        for tensor in (spread, full):
            assign(tensor, indices, torch.tensor([7, -0.0, 9]).to(dtype))
        agrees[f"{shape} {dimension}"] = same and same_bits(take(spread, everywhere), full.flatten())
    return agrees


def count_hooks() -> dict[str, Any]:
    """Record when a hook on a sharded weight fires, over three micro-batches of which the last one is reduced."""
    torch.manual_seed(0)
    model, inputs = torch.nn.Linear(3, 5, bias=False), torch.randn(6, 3)
    (full,) = torch.autograd.grad(model(inputs).sum(), model.weight)
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    fired, exact = [], []

    def hook(weight: torch.Tensor) -> None:
        fired.append(step)
        assert weight.grad is not None
        exact.append(torch.allclose(local_of(weight.grad), shard_of(weight).cut(full)))

    model.weight.register_post_accumulate_grad_hook(hook)
    mine = inputs.chunk(2)[distributed.get_rank()]
    for step in range(3):
        model.set_requires_gradient_sync(step == 2)  # type: ignore[operator]
        model(mine[step : step + 1]).sum().mul(2).backward()  # two processes, of which the mean is taken
    return {"fired": fired, "exact": exact}


def main(folder: Path, out: Path) -> None:
    ranks = find_ranks()
    results = {"shards": check_shards(), "hooks": count_hooks(), "world": ranks.world}
    results["dealt"] = ranks.gather_objects(ranks.shard("abc"))
    results["collected"] = ranks.collect([ranks.rank + 0.5, ranks.rank + 2.5], 3)
    for name in TRAININGS:
        for parallel in ("ddp", "fsdp"):
            train(folder, name, out / f"{name}-{parallel}", parallel=parallel)
    results["mixed"] = {
        parallel: train(folder, "micro", out / f"mixed-{parallel}", dtype="bfloat16", parallel=parallel)
        for parallel in ("ddp", "fsdp")
    }
    results["mixed"]["chats"] = train_answers(folder, "chats", out / "m", dtype="bfloat16", parallel="fsdp")
    results["answers"] = {
        f"{name}-{parallel}": train_answers(folder, name, out / f"{name}-{parallel}", parallel=parallel)
        for name in ANSWERS
        for parallel in ("ddp", "fsdp")
    }
    narrow = {"parallel": "fsdp", "base": "narrow"}
    results["mixed"]["whole"] = protected.train(folder, "by gradient", out / "narrow", **narrow)
    results["mixed"]["again"] = protected.go_on(folder, "by gradient", out / "narrow-again", **narrow)
    results["trainings"] = {parallel: protected.train_all(folder, out, parallel) for parallel in ("ddp", "fsdp")}
    for parallel, names in (("ddp", SEARCHES), ("fsdp", ("attribution",))):
        for name in names:
            patch = localize(folder, name, parallel=parallel)
            if ranks.is_first:
                save_patch(patch, out / f"{name}-{parallel}.safetensors")
    for name, how in REFITS.items():
        for parallel in how["engines"]:
            patch = refit(folder, name, parallel=parallel)
            if ranks.is_first:
                save_patch(patch, out / f"refit-{name}-{parallel}.safetensors")
    if ranks.is_first:
        (out / "results.json").write_text(json.dumps(results))
    speak(folder, out / "skill.safetensors")


def speak(folder: Path, out: Path) -> None:
    """End as the command line does, which alone says something on stdout; on stderr all that follows `SPEAKING`."""
    print(SPEAKING, file=sys.stderr, flush=True)
    models, task = (folder / "base", folder / "tuned"), folder / "toy" / "task.yaml"
    options = ["--task", task, "--budget", 20, "--points", 1, "--json", "-o", out]
    graft(["localize", *map(str, models), *map(str, options)])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
