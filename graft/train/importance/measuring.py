"""Measurement of importance: the scores of a model's weights on data, and the core region of the highest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from graft.arguments import checked
from graft.errors import CheckpointError, ConfigError
from graft.files.location import Located, locate
from graft.localize.localization import describe_checkpoint
from graft.patch.live import LiveTarget
from graft.patch.mask import Mask
from graft.patch.provenance import Provenance
from graft.scores.gradients import GradientMean
from graft.scores.inputs import ImportanceInput, ScoreTable
from graft.scores.registry import IMPORTANCE_SCORES
from graft.specs.importance import ImportanceSpec
from graft.specs.reader import to_plain
from graft.specs.runtime import Runtime
from graft.tasks.head import open_head
from graft.tasks.task import Task
from graft.tensors.architecture import name_map_of
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.pair import CheckpointPair
from graft.tensors.scope import Scope
from graft.train.importance.importance_file import find_importance, load_importance
from graft.train.importance.importance_weights import ImportanceWeights, check_anchor, keep_importance, select_core

FLOOR = 0.1  # of the mean domain importance: below it a weight counts as unused by the domain


@dataclass(frozen=True, eq=False)
class Importance:
    """Importance of each weight of a model.

    Attributes:
        scores: tensor name -> function that gives its (n,) fp32 scores, higher = matters more.
        weights: tensor name -> its values.
        method: the score's name.
        provenance: for the masks made from it.
    """

    scores: ScoreTable
    weights: Mapping[str, torch.Tensor]
    method: str
    provenance: Provenance

    def core(self, top: float) -> Mask:
        """Return the region of the best-scored share of the weights: exactly floor(top * n + 1/2), at most 1.

        Raises:
            BudgetError: the share keeps no weight, or more than were scored.
        """
        return select_core(self.scores, self.weights, top)

    def keep(self, share: float, dtype: torch.dtype = torch.float8_e5m2) -> ImportanceWeights:
        """Return the best-scored share with its Omega, for `graft train --method regularize`.

        Raises:
            BudgetError: no weight scores above 0, or the share keeps none.
        """
        return keep_importance(self.scores, self.weights, share, self.method, dtype)


@checked
def measure_importance(
    model: str | Path,
    task: Task | None,
    config: ImportanceSpec | None = None,
    *,
    domain: Task | None = None,
    base: str | Path | None = None,
    record: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> Importance:
    """Measure how much each weight matters to what a model knows.

    Args:
        model: a local folder, the embedded encoder or a Hub id.
        task: the data that shows what to keep (its training examples); methods without data need none.
        config: the importance block.
        domain: the data to be learned next; scores are then general / (domain + eps), so that weights which the
            domain needs as well are not fixed (arXiv 2604.17051, in its style).
        base: what the model was tuned from, for "movement".
        record: the file that a recording training left, for "path"; that of the model's folder where absent.
        device, dtype: of the model that gradients are computed with.

    Raises:
        ConfigError: the method needs data or a base that was not given, or the scope holds no tensor.
        CheckpointError, DataError, MismatchError: an input is refused; the line says which and why.
    """
    config = config or ImportanceSpec()
    needs = IMPORTANCE_SCORES[config.method].needs
    _check_arguments(config.method, needs, task, domain, base)
    located = locate(model)
    checkpoint = Checkpoint.open(located.path)
    names = Scope(config.scope).names(checkpoint)
    inputs = ImportanceInput({name: checkpoint.read(name) for name in names})
    if needs == "base":
        assert base is not None
        inputs = dataclasses.replace(inputs, pair=_open_pair(base, checkpoint, Scope(config.scope)))
    if needs == "record":
        path = find_importance(None if record is None else str(record), located.path)
        inputs = dataclasses.replace(inputs, record=_read_record(path, checkpoint))
    runtime = Runtime(device, dtype)
    table = _score(inputs, config, located, task, runtime)
    if domain is not None:
        table = _divide(table, _score(inputs, config, located, domain, runtime))
    if not table:
        raise CheckpointError(f"{located.name}: no tensor in scope can be scored by {config.method}")
    method = to_plain(config) | ({"domain": domain.describe()} if domain else {})
    provenance = describe_checkpoint(
        located, checkpoint, Scope(config.scope), method, task.describe() if task else None
    )
    weights = {name: inputs.weights[name] for name in table}
    return Importance(table, weights, config.method, provenance)


def _open_pair(base: str | Path, checkpoint: Checkpoint, scope: Scope) -> CheckpointPair:
    """Pair the base and the model, rounding to another dtype set aside."""
    pair = CheckpointPair.open(locate(base).path, checkpoint).without_rounding()
    pair.refuse_unlike(scope)
    return pair


def _check_arguments(method: str, needs: str, task: Task | None, domain: Task | None, base: object) -> None:
    if needs == "data" and task is None:
        raise ConfigError(f"importance by {method} needs a task's data")
    if needs == "base" and base is None:
        raise ConfigError(f"importance by {method} needs the base that the model was tuned from")
    if needs != "data" and domain is not None:
        raise ConfigError(f"importance by {method} takes no data, and so no domain to divide by")


def _score(
    inputs: ImportanceInput, config: ImportanceSpec, model: Located, task: Task | None, runtime: Runtime
) -> ScoreTable:
    score = IMPORTANCE_SCORES[config.method]
    function: Callable[[ImportanceInput], ScoreTable] = score.load()
    if score.needs != "data":
        return function(inputs)
    assert task is not None
    head = open_head(model.path, task.spec, runtime, seed=task.spec.seed)
    target = LiveTarget(head.model)
    live_names = target.match(inputs.weights).found
    live = {name: target.tensors[live_name] for name, live_name in live_names.items()}
    mean = GradientMean(head, live, task.train_examples(), config.micro_batch)
    weights = {name: inputs.weights[name] for name in live_names}  # the task's model may lack another head's tensors
    return function(dataclasses.replace(inputs, weights=weights, mean=mean))


def _divide(general: ScoreTable, domain: ScoreTable) -> ScoreTable:
    """Divide general / (domain + eps), eps = FLOOR * mean domain importance."""
    shared = [name for name in general if name in domain]
    total = sum(float(domain[name]().double().sum()) for name in shared)
    eps = FLOOR * total / max(1, sum(domain[name]().numel() for name in shared)) or 1.0
    return {name: partial(_ratio, general[name], domain[name], eps) for name in shared}


def _ratio(general: Any, domain: Any, eps: float) -> torch.Tensor:
    quotient: torch.Tensor = general() / (domain() + eps)
    return quotient


def _read_record(path: Path, checkpoint: Checkpoint) -> ScoreTable:
    """Read the Omega of a record by the checkpoint's names, -inf for weights without.

    Raises:
        CheckpointError: it is no file of importance.
        MismatchError: it belongs to other weights.
    """
    record = load_importance(path)
    own_names = name_map_of(checkpoint.architecture).match(record.mask, checkpoint.names).found
    for name, own in own_names.items():
        check_anchor(record, name, checkpoint.read(own))
    return {own: partial(record.dense, name) for name, own in own_names.items()}
