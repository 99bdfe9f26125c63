"""The command `graft overlap`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from graft_cli import options
from graft_cli.regions import locate_regions

if TYPE_CHECKING:
    from graft.compose.region_overlap import Overlap
    from graft.files.claims import Claim


@click.command("overlap")
@click.argument("patches", nargs=-1, required=True, metavar="PATCH...")
@click.option(
    "--threshold",
    type=float,
    default=0.1,
    show_default=True,
    help="Jaccard similarity from which two regions are in one cluster.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder for overlap.json, a heat map and a dendrogram."
)
@click.option(
    "--samples",
    type=click.IntRange(0),
    help="Samples of chance by row and column; 0 leaves it out. [default: 100, and none for more than 64 patches or "
    "200,000 entries in all, where they take minutes]",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the samples of --samples.")
@click.option(
    "--by-folder",
    is_flag=True,
    help="Take the patches of one folder as one task with several seeds; in a run's, those of one method or task.",
)
@click.option(
    "--base",
    metavar="MODEL",
    help="The base model, which tells one tensor under two names, and the columns of GPT-2's kin and of experts.",
)
@options.force
@options.as_json
@options.debug
def command(
    patches: tuple[str, ...],
    threshold: float,
    output: Path | None,
    samples: int | None,
    seed: int,
    by_folder: bool,
    base: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Compare the regions of patches or masks: the overlap of each pair, what chance would give, and clusters.

    Chance is given four times, since masks favor the same tensors, in them the same columns (input dimensions), and in
    those the same rows: k1 k2 / N over all weights; by tensor; by column; and by row and column, the mean of samples
    and between which 95 % of them lie. What exceeds one and not the next is shared in what the next one keeps. For a
    ceiling, include the same task with another seed among the PATCHes; with --by-folder, means over all pairs of seeds
    are shown. GPT-2 and its kin store matrices with their inputs first, and packed experts may be: chance by column of
    these is unknown without --base. --json adds every layer, except with --by-folder.

    \b
    Example:
      graft overlap topics.safetensors reviews.safetensors -o runs/overlap
      graft overlap runs/topics/*.safetensors runs/reviews/*.safetensors --by-folder
    """
    from graft.compose.region_overlap import measure_overlap
    from graft.files.claims import claim_output
    from graft.files.location import local_paths

    claim = None
    if output is not None:
        claim = claim_output(output, is_folder=True, force=force, inputs=local_paths(base, *patches))
    elif force:
        raise click.UsageError("--force needs -o")
    paths, _ = locate_regions(patches)
    if by_folder:
        _show_by_folder(paths, claim, as_json, samples=samples, seed=seed, base=base)
        return
    result = measure_overlap(*paths, threshold=threshold, labels=patches, samples=samples, seed=seed, base=base)
    if claim is not None:
        from graft.report.plots.overlap_map import write_overlap

        write_overlap(result, claim)
    wrote = [] if claim is None else [f"wrote {claim}"]
    options.show(result.to_json(), as_json, [*_lines(result), *wrote])


def _show_by_folder(paths: list[Path], claim: Claim | None, as_json: bool, **how: Any) -> None:
    from graft.compose.task_overlap import measure_task_overlap
    from graft.results.layout import split_patch_path

    groups: dict[tuple[Path, str], list[Path]] = {}
    for path in map(Path.resolve, paths):
        key = split_patch_path(path) or (path.parent, "")  # a run keeps those of all methods, or tasks, in one folder
        groups.setdefault(key, []).append(path)
    n_names = Counter(folder for folder, _ in groups)
    if len({folder.name for folder in n_names}) < len(n_names):
        raise click.UsageError("--by-folder: two folders have one name")
    labelled = {
        f"{folder.name}, {name}" if n_names[folder] > 1 else folder.name: files
        for (folder, name), files in groups.items()
    }
    result = measure_task_overlap(labelled, **how)
    if claim is not None:
        from graft.report.plots.overlap_map import write_task_overlap

        write_task_overlap(result, claim)
    wrote = [] if claim is None else [f"wrote {claim}"]
    options.show(result.to_json(), as_json, [*result.lines(), *wrote])


def _lines(result: Overlap) -> list[str]:
    from graft.compose.region_overlap import format_chance, format_untold

    lines = []
    for pair in result.pairs:
        lines += [
            f"{pair.a}  {pair.b}",
            f"  shared {pair.intersection:,}: jaccard {pair.jaccard:.4f}, {pair.share_of_a:.2%} of the first, "
            f"{pair.share_of_b:.2%} of the second",
            f"  {format_chance(vars(pair))}",
        ]
    lines += format_untold(result.untold)
    clusters = [" + ".join(group) for group in result.clusters if len(group) > 1]
    return [*lines, f"clusters at {result.threshold:g}: {'; '.join(clusters) or 'none'}"]
