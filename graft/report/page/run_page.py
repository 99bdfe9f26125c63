"""RunPage: a run of one task, as the sections of the page take it."""

from __future__ import annotations

from dataclasses import dataclass

from graft.localize.registry import keeps_to_budget
from graft.patch.skill_patch import Patch
from graft.report.page.headline import Share
from graft.report.page.markup import Html
from graft.report.page.plot_writer import PlotWriter
from graft.report.plots.registry import PLOTS
from graft.report.run_folder import RunFolder
from graft.results.models import REFIT, graft_name
from graft.specs.localize import LINES


@dataclass(frozen=True)
class RunPage:
    """Run of one task on the page.

    Attributes:
        run: what was measured.
        patch: the main patch of the first seed, None where the folder does not hold it.
        plots: draws plots and sets them into the page.
    """

    run: RunFolder
    patch: Patch | None
    plots: PlotWriter

    def draw_plots(self, section: str) -> list[Html]:
        """Draw the plots that the registry gives to a section; return those that the run has data for."""
        entries = [entry for entry in PLOTS.values() if entry.section == section and entry.applies_to("single")]
        plots = {entry.name: entry.load()(self.run) for entry in entries}
        return [self.plots.add(f"{self.run.name}-{name}", plot) for name, plot in plots.items() if plot is not None]

    @property
    def share(self) -> Share:
        """The size of the main patch."""
        return share_of(self.run, self.patch)


def share_of(run: RunFolder, patch: Patch | None) -> Share:
    """Return the size of a run's main patch; of all parameters where the patch knows how many there are."""
    n = patch.provenance.base.n_parameters if patch else 0
    by_other = {"localize.budget", "localize.lines", "localize.bytes"} & set(run.settings)  # in place of a density
    fills_it = keeps_to_budget(run.method) and run.settings.get("localize.structure") not in LINES
    is_by_density = run.main != graft_name(REFIT) and not by_other and fills_it
    density = run.settings.get("localize.density") if is_by_density else None
    return Share(run.k, run.entries, n or None, float(density) if density and not n else None)
