"""What of the patch's gain is which columns, and what which rows."""

from __future__ import annotations

from graft.report.page.document import note, section
from graft.report.page.headline import interval_words
from graft.report.page.markup import Html, Table
from graft.report.page.run_page import RunPage
from graft.results.gain_split import split_gain


def build_section(page: RunPage) -> Html | None:
    """Say how much of a patch's gain its controls by columns, rows and values reach."""
    run = page.run
    split = split_gain(run.seeds, run.models)
    if split is None:
        return None
    table = split.table()
    rendered = Table(list(table.head), [list(row) for row in table.rows], frozenset({0}))
    text = note(
        f"{split.sentence} A column is an input dimension of a layer, a row an output dimension. Controls by columns "
        f"and rows keep the patch's biases and norms, whose own share is that of vectors_only. Test split; "
        f"{interval_words(run)}."
    )
    return section(None, "Which columns, which rows?", text, rendered.render(f"{run.name}: columns and rows"))
