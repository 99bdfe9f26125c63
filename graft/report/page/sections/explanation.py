"""Dimensions and ranks of the first seed's patch."""

from __future__ import annotations

from graft.explain.explanation import Explanation, explain_mask
from graft.explain.sentences import describe_explanation
from graft.report.page.document import note, section
from graft.report.page.markup import Html, Table, bullets, folded
from graft.report.page.run_page import RunPage

NEEDS_BASE = (
    "Told from the patch alone, by the names and shapes of its tensors. `graft explain` with the base and the task "
    "adds activations, tokens, and the texts whose predictions change most."
)


def build_section(page: RunPage) -> Html | None:
    """Say which dimensions the entries of the first seed's patch lie in, and of what rank its matrices are."""
    if page.patch is None:
        return None
    explanation = explain_mask(page.patch.mask)
    return section(
        None,
        "What is it made of?",
        bullets(describe_explanation(explanation)),
        *page.draw_plots("explanation"),
        folded("Tensor by tensor", _table(explanation).render(f"{page.run.name}: tensors of the patch")),
        note(NEEDS_BASE),
    )


def _table(explanation: Explanation) -> Table:
    rows = [
        [
            tensor.name,
            f"{tensor.k:,}",
            tensor.place.role,
            *(
                ", ".join(f"{i} ({n:,})" for i, n in side.commonest(3)) if side is not None else ""
                for side in (tensor.inputs, tensor.outputs)
            ),
            "" if tensor.rank is None else f"{tensor.rank:,}",
        ]
        for tensor in explanation.tensors
    ]
    return Table(["tensor", "entries", "residual stream", "commonest inputs", "commonest outputs", "rank"], rows)
