"""Recipe of the run, and the expectations that it missed."""

from __future__ import annotations

from graft.report.page.markup import Html, Part, Table, bullets, element, folded
from graft.report.page.run_page import RunPage


def build_section(page: RunPage) -> Html:
    """Tell how the run was made, and what it missed."""
    run = page.run
    rows: list[list[Part]] = [[key, value] for key, value in run.settings.items()]
    seconds = [sum(seed.seconds.values()) for seed in run.seeds if seed.seconds]
    if seconds:
        rows.append(["minutes a seed, measured", f"{sum(seconds) / len(seconds) / 60:.1f}"])
    rows.append(["entries of the main patch", ", ".join(dict.fromkeys(f"{seed.k:,}" for seed in run.seeds))])
    missed = [element("p", "Not as expected:"), bullets(run.missed)] if run.missed else []
    return element(
        "div",
        *missed,
        folded("How it was made", Table(["key", "value"], rows, words=True).render(f"{run.name}: recipe")),
    )
