"""The command `graft report`."""

from __future__ import annotations

from pathlib import Path

import click

from graft_cli import options


@click.command("report")
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@options.output("HTML file to write; its plots go into a folder FILE_plots beside it.")
@options.force
@options.as_json
@options.debug
def command(folders: tuple[Path, ...], output: Path, force: bool, as_json: bool) -> None:
    """Show finished runs on one self-contained HTML page: tables, plots, intervals.

    DIR is a folder that `graft run` wrote. The page makes no network request and runs no script; the plots are also
    written as PNG and SVG. With several runs an overview of all tasks comes first. A run that compares methods over
    several tasks or domains is shown with its own tables and plots.

    \b
    Example:
      graft report runs/sst2 runs/trec -o report.html
    """
    from graft.report.page.build_page import write_report

    written = write_report(folders, output, force=force)
    result = {
        "page": str(written.page),
        "plots": [str(plot) for plot in written.plots],
        "headlines": written.headlines,
    }
    lines = [f"{name}: {text}" for name, text in written.headlines.items()]
    lines += [f"wrote {written.page}", f"wrote {len(written.plots)} plots into {output.stem}_plots"]
    options.show(result, as_json, lines)
