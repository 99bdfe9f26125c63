"""The command `graft explain`."""

from __future__ import annotations

from pathlib import Path

import click

from graft.specs.runtime import Runtime
from graft_cli import options
from graft_cli.regions import locate_regions


@click.command("explain")
@click.argument("patch")
@click.option("--base", required=True, metavar="MODEL", help="The model that PATCH was cut from.")
@options.task_or_none
@click.option("--limit", type=click.IntRange(1), help="Only this many validation texts, the first ones.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help="Also draw dimension by layer, as PNG.")
@options.seed
@options.batch_size(64)
@options.runs_model
@options.force
@options.as_json
@options.debug
def command(
    patch: str,
    base: str,
    task_file: Path | None,
    limit: int | None,
    plot: Path | None,
    seed: int | None,
    batch_size: int,
    runtime: Runtime,
    force: bool,
    as_json: bool,
) -> None:
    """Explain what a PATCH or mask is made of: which dimensions its entries lie in, and how they gather there.

    Entries are counted by the input and output dimensions of every matrix, and by the dimensions of the residual stream
    across layers, beside what chance would give. With --task the model reads the task's validation texts: how strongly
    these dimensions are activated, and the texts whose predictions the patch changes most, by KL from base to graft;
    a head that the patch brings predicts on both sides. --json adds every tensor and layer.

    \b
    Example:
      graft explain skill.safetensors --base embedded:all-MiniLM-L6-v2
      graft explain skill.safetensors --base embedded:all-MiniLM-L6-v2 --task task.yaml --plot dimensions.png
    """
    from graft.explain.explainer import explain_patch
    from graft.explain.sentences import describe_explanation, describe_texts
    from graft.files.claims import claim_output
    from graft.files.location import local_paths

    _refuse_idle(task_file, plot, force)
    task = None if task_file is None else options.load_task(task_file, seed)
    claim = None
    if plot is not None:
        inputs = [*local_paths(patch, base), *(options.files_of((task_file, task)) if task else [])]
        claim = claim_output(plot, is_folder=False, force=force, inputs=inputs)
    (file,), _ = locate_regions([patch])
    settings = {"device": runtime.device, "dtype": runtime.dtype}
    explanation = explain_patch(file, base, task=task, limit=limit, batch_size=batch_size, **settings)
    lines = describe_explanation(explanation)
    lines += [] if explanation.texts is None else describe_texts(explanation.texts)
    if claim is not None:
        from graft.report.plots.stream_map import write_stream

        write_stream(explanation, claim, title=f"{Path(patch).stem}: dimensions of the residual stream")
        lines.append(f"wrote {claim}")
    options.show(explanation.to_json(), as_json, [options.printable(line) for line in lines])


def _refuse_idle(task_file: Path | None, plot: Path | None, force: bool) -> None:
    """Refuse options that would do nothing."""
    if plot is not None and plot.suffix.lower() != ".png":
        raise click.UsageError("--plot writes a PNG: give it a name that ends in .png")
    if force and plot is None:
        raise click.UsageError("--force needs --plot")
    idle = [name for name in ("limit", "seed", "batch_size", "device", "dtype") if options.is_given(name)]
    if task_file is None and idle:
        raise click.UsageError(f"--{idle[0].replace('_', '-')} needs --task, without which no model runs")
