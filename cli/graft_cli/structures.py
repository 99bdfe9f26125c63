"""Options for whole columns and rows, and for a largest rank, and what is said of the lines that a patch has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from graft.specs.localize import Structure

if TYPE_CHECKING:
    from graft.patch.skill_patch import Patch
    from graft.specs.localize import LocalizeSpec
    from graft.specs.refit import RefitSpec

F = TypeVar("F", bound=Callable[..., Any])
_SIZES = ("density", "budget", "lines", "bytes")


def takes_structure(function: F) -> F:
    """Declare --structure and what goes with it: --max-rank of rank, --lines and --bytes of columns and rows."""
    for declare in (
        click.option(
            "--bytes", type=click.IntRange(1), help="Most bytes of the lines in a file, instead of --density."
        ),
        click.option("--lines", type=click.IntRange(1), help="Number of whole columns or rows, instead of --density."),
        click.option(
            "--max-rank",
            type=click.IntRange(1),
            help="Choose entries, of matrices alone, that fit a LoRA of this rank exactly.  [default: no limit]",
        ),
        click.option(
            "--structure",
            type=click.Choice(get_args(Structure)),
            help="entries one by one; whole columns (input dimensions) or rows (output dimensions) of matrices, as "
            "many as fit the budget; or rank: within --max-rank.  [default: entries]",
        ),
    ):
        function = declare(function)
    return function


def check_sizes(settings: Mapping[str, object]) -> None:
    """Refuse two sizes of one patch.

    Raises:
        click.UsageError: naming both, --density aside beside --budget, which takes precedence.
    """
    given = [f"--{name}" for name in _SIZES if settings.get(name) is not None]
    if len(given) > 1 and given != ["--density", "--budget"]:
        raise click.UsageError(f"{given[0]} does not go with {given[1]}")


def describe_lines_kept(patch: Patch, config: LocalizeSpec | RefitSpec) -> str:
    """Say how many whole columns or rows a patch has, and how much of its budget they take."""
    method = patch.provenance.method
    kept = f"{method['lines']:,} whole {config.structure}, {patch.k:,} entries"
    if config.lines is not None or config.bytes is not None:
        return kept
    from graft.localize.budget import resolve_budget

    k = resolve_budget(patch.provenance.base.n_parameters, config.density, config.budget)
    return kept if k == patch.k else f"{kept} of the budget's {k:,}: as many as whole {config.structure} fit into"
