"""The state of a training after its last good epoch, so that an interrupted run can go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from graft.errors import OutputError, TrainingError
from graft.files.outputs import new_file
from graft.files.workplaces import open_workplace, refuse_unmarked, workplace_of
from graft.parallel.ranks import Ranks
from graft.parallel.sharded import gather_state, gather_whole, put_state, spread_like
from graft.train.content import Content, describe_differences
from graft.train.importance.synaptic_intelligence import SynapticIntelligence
from graft.train.weight_average import WeightAverage

EpochMetrics = tuple[float, ...]
_ANEW = "delete it or leave --resume out to start anew, or choose another output"


class TrainingState:
    """Model, optimizer and random state on disk, in the output's workplace (`graft.files.workplaces`).

    Over several processes the first writes, and all must see the folder; every call is collective then.

    Attributes:
        out: the folder that the training will make.
        content: all that the training depends on; a state of another training is refused.
        ranks: the processes.
    """

    def __init__(self, out: Path, content: Content, ranks: Ranks = Ranks()) -> None:  # noqa: B008 - immutable
        self.out = out
        self.content = content
        self.ranks = ranks

    @property
    def folder(self) -> Path:
        """The workplace that holds the state."""
        return workplace_of(self.out)

    @property
    def file(self) -> Path:
        """The state's only file."""
        return self.folder / "state.pt"

    def cleared(self) -> TrainingState:
        """Delete an earlier state, and return this one."""
        if self.ranks.is_first:
            refuse_unmarked(self.folder)
            self.file.unlink(missing_ok=True)
        self.ranks.wait()
        return self

    def save(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        metrics: list[EpochMetrics],
        recorder: SynapticIntelligence | None = None,
        average: WeightAverage | None = None,
    ) -> None:
        """Replace the state by the present one; a crash while writing keeps the one before.

        Raises:
            OutputError: the disk refuses.
        """
        content = {
            "content": json.dumps(self.content),
            "model": gather_state(model, self.ranks),
            "optimizer": self._gather_moments(optimizer),
            "figures": metrics,
            "recorder": recorder.state_dict() if recorder else None,
            "average": average.state_dict(self.ranks) if average else None,
            "random": self.ranks.gather_objects(_random_state()),
        }
        if self.ranks.is_first:
            self._write(content)
        self.ranks.wait()

    def _write(self, content: dict[str, Any]) -> None:
        with open_workplace(self.out), new_file(self.file, force=True) as temporary:
            try:
                torch.save(content, temporary)
            except RuntimeError as error:  # the error of torch for a full disk
                raise OutputError(f"{self.folder}: cannot be written ({str(error).partition(chr(10))[0]})") from error

    def load(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        recorder: SynapticIntelligence | None = None,
        average: WeightAverage | None = None,
    ) -> list[EpochMetrics]:
        """Load the state, if there is one, into all that is given; return the metrics of the epochs done.

        Raises:
            TrainingError: the state belongs to a training of another content, which is named, or is not readable.
        """
        if not self.file.is_file():
            return []
        try:
            content = torch.load(self.file, weights_only=True, map_location="cpu")
            begun = json.loads(content["content"])
        except Exception as error:  # torch raises many kinds for a damaged file
            raise TrainingError(f"{self.folder}: not readable; {_ANEW}") from error
        if differing := describe_differences(begun, self.content):
            raise TrainingError(f"{self.folder}: belongs to another training: {differing}; {_ANEW}")
        put_state(model, content["model"])
        _load_moments(optimizer, content["optimizer"])
        if recorder is not None:
            recorder.load_state_dict(content["recorder"])
        if average is not None:
            average.load_state_dict(content["average"])
        if self.ranks.rank < len(content["random"]):  # more processes than before: the new ones draw by their seed
            _set_random_state(content["random"][self.ranks.rank])
        return [tuple(metrics) for metrics in content["figures"]]

    def _gather_moments(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Return the optimizer's state, with sharded moments gathered."""
        state = optimizer.state_dict()
        state["state"] = {
            number: {name: gather_whole(v, self.ranks) if torch.is_tensor(v) else v for name, v in moments.items()}
            for number, moments in state["state"].items()
        }
        return state


def _load_moments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a gathered state into the optimizer, sharded as its weights are."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for number, moments in state["state"].items():
        for name, value in moments.items():
            if torch.is_tensor(value) and value.shape == weights[number].shape:
                moments[name] = spread_like(value, weights[number])
    optimizer.load_state_dict(state)


def _random_state() -> tuple[torch.Tensor, list[torch.Tensor]]:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def _set_random_state(state: tuple[torch.Tensor, list[torch.Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state[1])
