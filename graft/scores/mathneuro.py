"""What matters on the skill's texts and not on general ones, by forward passes alone.

MathNeuro (Christ et al. 2024, arXiv 2410.16930) takes the size of a weight and of the inputs that it meets,

    importance_ij = |W_ij| * ||x_j||,   x_j the input j of the layer in the model that has the skill,

once on the texts of the skill and once on general ones. Of each matrix the entries that are among the share K of
largest importance on the first, and not among as many on the second, are the skill's. No gradient is taken, and the
base's weights have no part in it but for which entries changed.

Differences: the published K is chosen by hand and the number of entries follows; here the budget is given, and K is the
smallest share, on a grid of 2^20, at which as many changed entries are left. Of the few more that the last step adds,
those that rank lowest on the task's texts are dropped. Norms are over all tokens of the texts together, where the
authors add up those of each text. Texts are read as their task's head reads them, template and answers too; general
ones alone, where their head is of another kind than the task's and so cannot share its model. Embeddings in scope meet
one-hot inputs (`graft.scores.wanda`), which the authors leave out; vectors meet the same inputs on all texts and are
never chosen.

Four weights of one size whose inputs have norms 4 3 2 1 on the task and 4 1 2 3 on general texts: K of one half keeps
the 2nd, which ranks 2nd on the one and 4th on the other; a quarter keeps none, since both tops hold the 1st.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from graft.errors import BudgetError, CheckpointError
from graft.scores.gradient_path import GradientPath
from graft.scores.inputs import ScoreInput, ScoreTable
from graft.scores.wanda import measure_input_sizes, weigh_by_inputs
from graft.tensors.pair import CheckpointPair
from graft.tensors.scope import Scope

GRID = 1 << 20  # shares K that are tried: 1 / GRID, 2 / GRID, ...
Places = tuple[torch.Tensor, torch.Tensor]  # (n,) int64, by the task's texts and by the general ones


def score_mathneuro(inputs: ScoreInput) -> ScoreTable:
    """Score the entries of the skill by their rank on its texts, above 0 and at most 1, and all others -inf.

    Raises:
        BudgetError: at no share K are enough changed entries left.
        CheckpointError: a weight is not finite.
        ConfigError: the inputs of a tensor cannot be measured, such as those of experts and convolutions.
    """
    path, pair = inputs.model, inputs.pair
    # the tuned model as it is, vectors and what lies outside the scope included
    whole = GradientPath(path.head, pair, pair.names_in(Scope("all")), path.examples, batch_size=path.batch_size)
    whole.move_to(1.0)
    texts = ((path.examples, path.head), (inputs.general, inputs.general_head))
    task, general = (measure_input_sizes(inputs, *read) for read in texts)
    whole.return_to_base()
    places = {name: partial(_find_places, pair, name, task[name], general[name]) for name in inputs.names}
    shares: dict[str, int] = {}
    for names, k in inputs.groups:
        shares |= dict.fromkeys(names, find_share(pair, {name: places[name] for name in names}, k))
    return {name: partial(_score, places[name], shares.get(name, 0)) for name in inputs.names}


def find_share(pair: CheckpointPair, places: Mapping[str, Callable[[], Places]], k: int) -> int:
    """Return the smallest share K, in steps of the grid, at which at least k changed entries are the skill's.

    Raises:
        BudgetError: there is none.
    """
    steps = np.zeros(GRID + 2, np.int64)
    for name, find in places.items():
        steps += count_steps(*find(), pair.read_delta(name)[1])
    sizes = steps.cumsum()
    if sizes.max() < k:
        raise BudgetError(
            f"a budget of {k:,} entries, but at most {sizes.max():,} changed ones are in the top of the task's texts "
            "and not in that of the general ones: lower it, or give general texts that are less like the task's"
        )
    return int(np.argmax(sizes >= k))


def count_steps(task: torch.Tensor, general: torch.Tensor, changed: torch.Tensor) -> npt.NDArray[np.int64]:
    """Return by how many the skill's changed entries grow in number at each share, from 0 on, (GRID + 2,)."""
    apart = changed & (task < general)
    enter, leave = (torch.bincount(places[apart] + 1, minlength=GRID + 2) for places in (task, general))
    steps: npt.NDArray[np.int64] = (enter - leave).numpy()
    return steps


def place_by_size(importance: torch.Tensor) -> torch.Tensor:
    """Return (n,) int64 places of (n,) numbers, the lowest for the largest and GRID for 0; ties go by index.

    A number is among the n * K / GRID largest, rounded down, where its place is below K.

    Raises:
        CheckpointError: a number is not finite.
    """
    if not bool(importance.isfinite().all()):
        raise CheckpointError("a weight, or what it is multiplied by, is not finite")
    order = importance.argsort(descending=True, stable=True)
    places = torch.empty_like(order)
    places[order] = (torch.arange(1, len(order) + 1) * GRID - 1) // max(1, len(order))
    return places.masked_fill_(importance == 0, GRID)


def _find_places(pair: CheckpointPair, name: str, task: torch.Tensor, general: torch.Tensor) -> Places:
    _, tuned = pair.read(name)
    by_task, by_general = (place_by_size(weigh_by_inputs(tuned.float(), sizes)) for sizes in (task, general))
    return by_task, by_general


def _score(find_places: Callable[[], Places], share: int) -> torch.Tensor:
    """Return (n,) fp32 scores of one tensor."""
    task, general = find_places()
    is_the_skills = (task < share) & (share <= general)
    return (1 - task / GRID).float().masked_fill_(~is_the_skills, -torch.inf)
