"""Training of an adapter of the peft library in place of the weights, and its merge, for comparison.

The same loop, order of examples, loss and optimizer as `graft.train.fine_tuning`; only what trains differs. LoRA (arXiv
2106.09685) adds a product of two thin matrices to each chosen layer; SHiRA (arXiv 2406.13175) trains as many of its own
weights, at random positions; OSF (arXiv 2504.07097) trains what is orthogonal to each layer's largest singular vectors.
peft projects OSF's gradients, not its steps: under SGD those vectors stay, under AdamW, which scales each entry by
itself, they move a little. peft is imported only when an adapter is trained.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from graft.errors import ConfigError
from graft.files.claims import claim_output
from graft.files.location import locate
from graft.files.outputs import new_folder
from graft.specs.adapter import AdapterSpec
from graft.specs.reader import to_plain
from graft.specs.runtime import DEFAULT, Runtime
from graft.specs.train import TrainSpec
from graft.tasks.task import Task
from graft.tensors.new_weights import find_new
from graft.train.content import Content, content_of_training, hash_content
from graft.train.distribution import SharedLoss
from graft.train.epochs import Epoch, train_epoch
from graft.train.fine_tuning import TrainResult, resolve_settings, save_model
from graft.train.manifest import write_manifest
from graft.train.master_weights import MasterWeights
from graft.train.multitask_data import MultiTaskData, Tasks, list_tasks
from graft.train.schedule import TrainingSchedule
from graft.train.stepper import Stepper, make_optimizer

# keys of a train block that are about the model's own weights, as plain training has them
_OF_WEIGHTS: dict[str, Any] = {
    "l1": 0.0,
    "average": False,
    "localizable": None,
    "record": None,
    "regularize": None,
    "stop_at": None,
}


def train_plainly(config: TrainSpec) -> TrainSpec:
    """Return a train block without what only the model's own weights can train with."""
    return dataclasses.replace(config, **_OF_WEIGHTS)


def train_adapter(
    base: str | Path,
    task: Tasks,
    out: str | Path,
    adapter: AdapterSpec,
    *,
    config: TrainSpec | None = None,
    runtime: Runtime = DEFAULT,
    force: bool = False,
) -> TrainResult:
    """Train an adapter on a base, merge it, and save a folder like any other checkpoint.

    Args:
        base, task, out, force: as in `graft.train.fine_tuning.train_task`.
        adapter: the adapter's kind, rank and layers.
        config: how to train; the (first) task's own block where absent. Its scope means nothing here.
        runtime: where and how, in one process.

    Raises:
        ConfigError: peft is not installed, no layer is a target, or the config asks for more than plain training.
        TrainingError: the loss is not finite, or memory ran out.
        OutputError, CheckpointError, DataError: nothing was written.
    """
    out, tasks, located = Path(out), list_tasks(task), locate(base)
    config, seed = resolve_settings(tasks, config)
    if config != train_plainly(config):
        raise ConfigError(f"an adapter trains plainly: without {', '.join(_OF_WEIGHTS)}")
    claim = claim_output(out, is_folder=True, force=force, inputs=[located.path])
    data = MultiTaskData.open(located.path, tasks, runtime, seed)
    head, schedule = data.heads[0], TrainingSchedule(data.sizes, config, seed)
    content_hash = hash_content(content_of_adapter(located.path, tasks, adapter, config, seed, runtime.dtype))
    masters = MasterWeights(head.model, config.precision)
    peft_model = attach(head.model, adapter, seed)
    loss = SharedLoss(head, masters, config.micro_batch_size)
    stepper = Stepper(head, make_optimizer(head.model, config), schedule, loss, masters)
    unchecked: Any = torch.sparse.check_sparse_tensor_invariants(enable=False)  # type: ignore[no-untyped-call]
    with unchecked:  # the default; torch warns where it was not set
        epochs = _run(stepper, data)
        peft_model.merge_and_unload()
    if masters:  # only the merged weights are rounded as they are saved
        masters.round()
        epochs[-1] = dataclasses.replace(epochs[-1], validation_accuracy=data.validate())
    manifest = {
        "base": located.name,
        "task": [item.describe() for item in tasks],
        "seed": seed,
        "steps": schedule.steps,
    }
    manifest |= {
        "train": to_plain(config),
        "adapter": to_plain(adapter),
        "epochs": list(map(dataclasses.asdict, epochs)),
    }
    with new_folder(claim) as folder:
        save_model(head, folder, out)
        write_manifest(folder, manifest, content_hash)
    return TrainResult(out, tuple(epochs), schedule.steps)


def content_of_adapter(
    base: Path, tasks: Sequence[Task], adapter: AdapterSpec, config: TrainSpec, seed: int, dtype: str
) -> Content:
    """Return all that the weights of `train_adapter` depend on, in the form of `content_of_training`."""
    return content_of_training(base, tasks, config, seed, dtype, adapter=to_plain(adapter))


def attach(model: torch.nn.Module, adapter: AdapterSpec, seed: int) -> Any:
    """Put an adapter into a live model; return the peft model, which can merge it.

    The adapter alone then takes gradients, and what the model has that is new, such as the layer of a new head.

    Raises:
        ConfigError: peft is not installed, or no layer is a target.
    """
    config = _configure(adapter, seed)
    from peft import get_peft_model

    new = find_new(model)
    new_weights = [weight for name, weight in model.named_parameters() if name in new]
    torch.manual_seed(seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # between peft and transformers
            adapted: Any = get_peft_model(model, config)
    except ValueError as error:
        raise ConfigError(f"peft: {' '.join(str(error).split())[:200]}") from error
    for weight in new_weights:
        weight.requires_grad_(True)
    return adapted


def _configure(adapter: AdapterSpec, seed: int) -> Any:
    """Return peft's own settings of an adapter.

    Raises:
        ConfigError: peft is not installed, or its version does not know the adapter.
    """
    try:
        import peft
    except ImportError as error:
        raise ConfigError("an adapter needs the peft package: pip install peft") from error
    name = {"lora": "LoraConfig", "shira": "ShiraConfig", "osf": "OSFConfig"}[adapter.kind]
    if not hasattr(peft, name):
        raise ConfigError(f"peft {peft.__version__} does not know {adapter.kind}: pip install --upgrade peft")
    if adapter.kind == "lora":
        more: dict[str, Any] = {"r": adapter.rank, "lora_alpha": adapter.alpha or 2 * adapter.rank}
    elif adapter.kind == "shira":
        more = {"r": adapter.rank, "random_seed": seed}
    else:
        more = {"effective_rank": adapter.preserved}
    return getattr(peft, name)(target_modules=adapter.targets, **more)


def _run(stepper: Stepper, data: MultiTaskData) -> list[Epoch]:
    torch.manual_seed(stepper.schedule.seed)  # of dropout
    numbers = tqdm(range(stepper.schedule.epochs), desc="train", unit="epoch", disable=None)
    return [train_epoch(stepper, data, number)[0] for number in numbers]
