"""Reliability diagrams side by side: base, tuned, the graft, and the controls."""

from __future__ import annotations

import numpy as np

from graft.report.estimates import controls_of, decimal, estimate_of
from graft.report.page.document import section
from graft.report.page.markup import Html
from graft.report.page.run_page import RunPage
from graft.report.plots.reliability import plot_reliability, pool_bins
from graft.report.run_folder import RunFolder


def build_section(page: RunPage) -> Html | None:
    """Draw reliability diagrams side by side: base, tuned, the graft, and the controls."""
    run = page.run
    wanted = ["base", "tuned", run.main, *controls_of(run)]
    names = [name for name in wanted if _same_edges(run, name)]
    if not names:
        return None
    pooled = {name: pool_bins([seed.bins[name] for seed in run.seeds]) for name in names}
    over = f"{len(run.seeds)} seeds pooled" if len(run.seeds) > 1 else "1 seed"
    errors = {name: error.mean for name in names if (error := estimate_of(run, name, "ece"))}
    figure = page.plots.add(
        f"{run.name}-reliability",
        lambda path: plot_reliability(pooled, path, title=f"{run.name}: reliability on test, {over}", errors=errors),
        alt="Reliability diagrams on test. " + "; ".join(f"{name}: ECE {decimal(x)}" for name, x in errors.items()),
        caption="How often a model is right (bars) against how sure it is; the dashed diagonal is perfect calibration, "
        f"below it a model is too sure. Test split, {over}; the ECE is the mean over seeds, as in the table.",
    )
    return section(None, "Does it know what it knows?", figure)


def _same_edges(run: RunFolder, name: str) -> bool:
    """Whether all seeds have bins of a model that can be pooled."""
    found = [seed.bins[name].edges for seed in run.seeds if name in seed.bins]
    return len(found) == len(run.seeds) and all(np.array_equal(found[0], edges) for edges in found)
