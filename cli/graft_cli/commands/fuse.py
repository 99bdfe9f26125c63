"""The command `graft fuse`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from graft.compose.registry import FUSION_METHODS
from graft.specs.fusion import Angle, Rest
from graft_cli import options

if TYPE_CHECKING:
    from graft.compose.fusion.fuser import Fusion


@click.command("fuse")
@click.argument("base")
@click.argument("tuned", nargs=-1, required=True, metavar="TUNED...")
@options.choose("--method", registry=FUSION_METHODS, default="cpi", show_default=True, help="Method of fusion.")
@click.option(
    "--scale", type=float, help="Factor by which differences are multiplied. [default: task-arithmetic 0.4, ties 1]"
)
@click.option(
    "--density", type=float, default=0.2, show_default=True, help="ties: share of each model's differences to keep."
)
@click.option(
    "--core", type=float, default=0.01, show_default=True, help="cpi: share of all weights in each model's core."
)
@click.option(
    "--threshold",
    type=float,
    default=0.1,
    show_default=True,
    help="cpi, ties: Jaccard similarity of selected weights from which models are reported as one group.",
)
@click.option(
    "--rest",
    type=click.Choice(get_args(Rest)),
    default="slerp",
    show_default=True,
    help="cpi: interpolation of the weights outside the cores.",
)
@click.option(
    "--angle",
    type=click.Choice(get_args(Angle)),
    default="tensor",
    show_default=True,
    help="slerp: measure angles tensor by tensor, or between whole models.",
)
@options.output("Folder to make.")
@options.force
@options.as_json
@options.debug
def command(base: str, tuned: tuple[str, ...], output: Path, force: bool, as_json: bool, **settings: Any) -> None:
    """Fuse several models that were fine-tuned from BASE into one, tensor by tensor.

    Heads that only the tuned models have are left out, and listed.

    \b
    Example:
      graft fuse embedded:all-MiniLM-L6-v2 runs/topics runs/reviews -o runs/fused
    """
    from graft.compose.fusion.fuser import fuse_models
    from graft.specs.fusion import FusionSpec
    from graft.specs.reader import read_config

    spec = read_config(FusionSpec, {key: value for key, value in settings.items() if value is not None}, "fuse")
    result = fuse_models(base, tuned, output, spec, force=force)
    for name in result.files_left_out:
        click.echo(f"left out: {name}", err=True)
    options.show({"output": str(output), **result.to_json()}, as_json, [*_lines(result), f"wrote {output}"])


def _lines(result: Fusion) -> list[str]:
    rows: list[tuple[str, object]] = [("method", result.spec.method), ("models", ", ".join(result.models))]
    rows.append(("fused", f"{result.n_fused:,} weights"))
    if result.angles:
        rows.append(("widest angle", f"{max(map(max, result.angles)):.4f} degrees"))
    if result.selected:
        rows.append(("selected", ", ".join(f"{k:,}" for k in result.selected)))
        rows.append(("groups", "; ".join(" + ".join(group) for group in result.clusters)))
    for name, tensors in (("kept", result.kept), ("left out", result.left_out)):
        if tensors:
            rows.append((name, ", ".join(tensors)))
    return options.columns(rows)
