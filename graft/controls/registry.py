"""Controls by name: those made of a patch, and every method of localization, at the same budget.

A control is a function from `graft.controls.inputs.ControlInput` to a patch, or to what
`graft.controls.application.put_on` puts on a model, and a row here. A column of a matrix is an input dimension of its
layer, a row an output dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

from graft.localize.registry import LOCALIZATION_METHODS
from graft.registry import LayeredRegistry
from graft.scores.registry import ScoreEntry

_FOLDER = "graft.controls."


@dataclass(frozen=True, kw_only=True)
class PatchControl(ScoreEntry):
    """A control that is made of a patch.

    Attributes:
        reached_by: completes "of the patch's gain, so much is reached by".
    """

    reached_by: str


CONTROLS: LayeredRegistry[ScoreEntry] = LayeredRegistry(
    "control",
    [
        PatchControl(
            name="vectors_only",
            help="the patch's entries outside matrices alone: biases and norms, which the next ones keep",
            target=f"{_FOLDER}vectors:keep_vectors",
            reached_by="its biases and norms alone",
        ),
        PatchControl(
            name="random_in_tensors",
            help="of each matrix as many changed entries at random as the patch has",
            target=f"{_FOLDER}redrawn:redraw_entries",
            reached_by="as many random entries of the same matrices",
        ),
        PatchControl(
            name="random_columns",
            help="of each row of a matrix as many changed entries as the patch has, their columns at random",
            target=f"{_FOLDER}redrawn:redraw_columns",
            reached_by="random columns in its own rows",
        ),
        PatchControl(
            name="random_rows",
            help="of each column of a matrix as many changed entries as the patch has, their rows at random",
            target=f"{_FOLDER}redrawn:redraw_rows",
            source="https://arxiv.org/abs/2310.17715",
            reached_by="random rows of its own columns",
        ),
        PatchControl(
            name="whole_columns",
            help="the commonest columns of its matrices whole, at exactly as many changed entries",
            target=f"{_FOLDER}whole_columns:take_whole_columns",
            source="https://arxiv.org/abs/2310.17715",
            reached_by="its commonest columns whole, at as many entries",
        ),
        PatchControl(
            name="main_columns",
            help="of each matrix the fewest columns with four fifths of its changed entries, whole: more than it has",
            target=f"{_FOLDER}whole_columns:take_main_columns",
            source="https://arxiv.org/abs/2310.17715",
            reached_by="all rows of its main columns, which are more entries",
        ),
        PatchControl(
            name="constant_shift",
            help="in place of the entries of linear layers the constant that they add to the mean input",
            target=f"{_FOLDER}constant_shift:shift_outputs",
            needs_data=True,
            reached_by="a constant shift of its layers' outputs",
        ),
        PatchControl(
            name="sparta",
            help="as many random entries as it changes, their values trained on the labels, after SpaRTA",
            target=f"{_FOLDER}trained:train_random",
            source="https://arxiv.org/abs/2502.15975",
            needs_data=True,
            reached_by="as many random entries with trained values",
        ),
    ],
    below=LOCALIZATION_METHODS,
)


def is_made_of_patch(name: str) -> bool:
    """Return whether a control is made of the main method's patch, rather than found anew."""
    return isinstance(CONTROLS.find(name), PatchControl)
