"""The sections of a run on the page of `graft report`, in their order.

A section is a module with a function from `graft.report.page.run_page.RunPage` to HTML, or to None where the run lacks
what it shows, and a row here. Its plots are those that `graft.report.plots.registry` gives to it.
"""

from __future__ import annotations

from dataclasses import dataclass

from graft.registry import Entry, Registry


@dataclass(frozen=True, kw_only=True)
class SectionEntry(Entry):
    """Section of the page; `name` is that of its module where it is one of ours."""

    target: str = ""

    def __post_init__(self) -> None:
        if not self.target:
            object.__setattr__(self, "target", f"graft.report.page.sections.{self.name}:build_section")


SECTIONS = Registry(
    "section",
    [
        SectionEntry(name="main_table", help="every model on the test split"),
        SectionEntry(name="reliability", help="how often a model is right against how sure it is"),
        SectionEntry(name="comparisons", help="the graft minus every other model, paired by example"),
        SectionEntry(name="out_of_distribution", help="accuracy and ECE of every model on every set"),
        SectionEntry(name="controls", help="simpler ways to the graft's accuracy, and their calibration"),
        SectionEntry(name="sufficiency_necessity", help="what each region brings to the base and takes from tuned"),
        SectionEntry(name="columns_and_rows", help="what of the gain is which columns, and what which rows"),
        SectionEntry(name="density_curves", help="gain and calibration against density"),
        SectionEntry(name="layers", help="entries of the patch by layer and module"),
        SectionEntry(name="explanation", help="the dimensions that the patch's entries lie in, and their rank"),
        SectionEntry(name="detection", help="how well a model tells other data from the task's own"),
        SectionEntry(name="diagnosis", help="what was to be expected of the checkpoint before any data were touched"),
        SectionEntry(name="more_plots", help="plots that no other section shows"),
        SectionEntry(name="recipe", help="how the run was made, and which expectations it missed"),
    ],
)
