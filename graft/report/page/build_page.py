"""`graft report`: folders of finished runs become one page and its plots."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graft.errors import OutputError
from graft.files.claims import claim_output
from graft.files.outputs import new_file, new_folder
from graft.patch.skill_patch import Patch
from graft.report.estimates import estimate_of, gain_of
from graft.report.page.document import note, render_page, section
from graft.report.page.headline import Share, interval_words, state_out_of_distribution, state_result
from graft.report.page.markup import Html, Part, bullets, element, folded
from graft.report.page.overview import overview_section
from graft.report.page.plot_writer import PlotWriter
from graft.report.page.run_page import RunPage, share_of
from graft.report.page.table_run import TableRun, read_table_run, table_section
from graft.report.plots.style import is_plot
from graft.report.registry import SECTIONS
from graft.report.run_folder import RunFolder, read_run
from graft.results.cells import percent
from graft.results.layout import PATCHES, RESULTS, TABLES
from graft.results.run import load_results

READING = (
    "Recovered gain: (graft − base) / (tuned − base) in accuracy; 0 is the base, 1 the tuned model. Over several seeds "
    "the mean of the seeds' own gains, in which one counts most where tuning raised least.",
    "ECE: mean gap between confidence and accuracy over 15 equal-width bins, 0 to 1, lower is better. It is biased "
    "upward: compare it with the floor, the ECE that a perfectly calibrated model would show at this n, not with 0.",
    "Debiased ECE: root mean square gap over equal-mass bins less its sampling bias (arXiv 1909.10155).",
    "Intervals are 95 %. Over several seeds: Student's t over seeds, which covers few-shot draw, training order and "
    "dropout, not the choice of test examples. Of one seed: basic bootstrap over test examples.",
    "Differences are paired: both models answer the same examples. Ahead or behind: the interval excludes 0. "
    "Otherwise it is a tie: the data do not tell the two apart, which is not to say that they are equal. "
    "No correction is made for the number of comparisons.",
    "Test metrics are from the held-out test split and its out-of-distribution partners; whatever was chosen, was "
    "chosen on train and validation.",
)


@dataclass(frozen=True)
class WrittenReport:
    """Files that were written.

    Attributes:
        page: the HTML file.
        plots: the PNG files beside it.
        headlines: name of a run -> what it showed.
    """

    page: Path
    plots: tuple[Path, ...]
    headlines: dict[str, str]


def write_report(folders: Sequence[Path], out: Path, *, force: bool = False) -> WrittenReport:
    """Write one self-contained page about finished runs, and its plots into a folder beside it.

    The same runs give the same bytes. The plots go into `STEM_plots`, STEM the name of the page without suffix.

    Args:
        folders: that `graft run` wrote, in the order of the page.
        out: the HTML file.
        force: replace page and plots where they exist.

    Raises:
        DataError: a folder is none, or its results are broken.
        PatchFormatError: a run's patch is broken.
        OutputError: page or plots exist and `force` is off, the plots' folder is not one that a report made, or they
            cannot be written.
    """
    inputs = [file for folder in folders for file in (folder / RESULTS, folder / TABLES, folder / PATCHES)]
    page_claim = claim_output(out, is_folder=False, force=force, inputs=inputs)
    plots = out.with_name(f"{out.stem}_plots")
    plots_claim = claim_output(plots, is_folder=True, force=force, inputs=inputs)
    _refuse_foreign(plots)
    named = _tell_apart([_read(folder) for folder in folders])
    tables = [run for run in named if isinstance(run, TableRun)]
    runs = [run for run in named if isinstance(run, RunFolder)]
    patches = [run.patch() for run in runs]
    with new_folder(plots_claim) as folder, new_file(page_claim) as page:
        writer = PlotWriter(folder)
        page.write_text(_compose(runs, patches, tables, writer), encoding="utf-8")
    headlines = {run.name: state_result(run, share_of(run, patch)) for run, patch in zip(runs, patches, strict=True)}
    headlines |= {run.name: run.headline for run in tables}
    return WrittenReport(out, tuple(plots / name for name in writer.files), headlines)


def _refuse_foreign(plots: Path) -> None:
    """Refuse to replace a folder whose name was not given, unless it holds plots of ours and nothing else."""
    if plots.is_dir() and not all(is_plot(file) for file in plots.iterdir()):
        raise OutputError(f"{plots} holds more than a report's plots: move it, or choose another name for the page")


def _read(folder: Path) -> RunFolder | TableRun:
    results = load_results(folder)
    return read_table_run(folder, results) or read_run(folder, results)


def _tell_apart(runs: Sequence[RunFolder | TableRun]) -> list[RunFolder | TableRun]:
    """Name runs of one recipe by their folder too, and by a number where that is the same as well."""
    names = Counter(run.name for run in runs)
    longer = [f"{run.name} ({run.path.resolve().name})" if names[run.name] > 1 else run.name for run in runs]
    return [
        dataclasses.replace(run, name=name if longer.count(name) == 1 else f"{name} #{longer[:i].count(name) + 1}")
        for i, (run, name) in enumerate(zip(runs, longer, strict=True))
    ]


def _compose(
    runs: Sequence[RunFolder], patches: Sequence[Patch | None], tables: Sequence[TableRun], plots: PlotWriter
) -> str:
    pages = [RunPage(run, patch, plots) for run, patch in zip(runs, patches, strict=True)]
    names = [*(run.name for run in runs), *(run.name for run in tables)]
    title = names[0] if len(names) == 1 else f"{len(names)} runs: {', '.join(names)}"
    overview = len(runs) > 1
    links = [element("a", name, href=f"#run-{i}") for i, name in enumerate(names, 1)]
    glance = element("a", "All tasks at a glance", href="#overview") if overview else None
    return render_page(
        f"Where the skill lives: {title}",
        element("h1", "Where the skill lives"),
        element("nav", glance, *links) if len(names) > 1 else None,
        overview_section(runs, plots) if overview else None,
        *(_run_section(page, i) for i, page in enumerate(pages, 1)),
        *(table_section(run, f"run-{i}") for i, run in enumerate(tables, len(runs) + 1)),
        folded("How to read this page", bullets(READING)) if runs else None,
    )


def _run_section(page: RunPage, number: int) -> Html:
    run = page.run
    lead = state_result(run, page.share).replace(" ± ", "\u00a0±\u00a0")
    elsewhere = state_out_of_distribution(run)
    return section(
        f"run-{number}",
        run.name,
        element("p", lead, klass="lead"),
        element("p", elsewhere) if elsewhere else None,
        _tiles(page),
        *(entry.load()(page) for entry in SECTIONS.values()),
        level=2,
    )


def _tiles(page: RunPage) -> Html:
    """Show the numbers that matter most, large."""
    run, share = page.run, page.share
    tiles = [_tile("weights in the patch", *share.entries.split(" ", 1), _of_all(share))]
    gain = gain_of(run, run.main)
    if gain:
        tiles.append(_tile("of the gain recovered", *str(gain).split(" ", 1)))
    for metric, title in (("accuracy", "accuracy"), ("ece", "ECE, lower is better")):
        graft, tuned = estimate_of(run, run.main, metric), estimate_of(run, "tuned", metric)
        if graft and tuned:
            tiles.append(_tile(title, *str(graft).split(" ", 1), f"tuned {tuned}"))
    return element("div", element("div", *tiles, klass="tiles"), note(f"Test split; {interval_words(run)}."))


def _tile(title: str, value: str, *below: Part) -> Html:
    return element(
        "div",
        element("span", title),
        element("b", value),
        *(element("span", line) for line in below if line),
        klass="tile",
    )


def _of_all(share: Share) -> str:
    return f"{percent(share.k / share.n_parameters)} of {share.n_parameters:,}" if share.n_parameters else ""
