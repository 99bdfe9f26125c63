"""A refit from the command line: the fit, and what it measured on validation, for a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graft_cli import options, processes, structures
from graft_cli.saving import save_and_show

if TYPE_CHECKING:
    from graft.files.claims import Claim
    from graft.patch.skill_patch import Patch
    from graft.specs.refit import RefitSpec
    from graft.specs.runtime import Runtime
    from graft.tasks.task import Task

_HEADER = f"{'epoch':>5}  {'values':<6}  {'loss':>7}  {'KL':>7}  {'NLL':>7}  {'accuracy':>8}"
_NO_BETTER = "note: no values were better than BASE's own on validation: give more texts or weights, or another --lr"


def plan_and_show(
    base: str, tuned: str, task: Task, config: RefitSpec, runtime: Runtime, *, k: int | None, as_json: bool
) -> None:
    """Print the memory that a refit will take; `k` is the size of a support that is given."""
    from graft.memory.refit import plan_refit

    planned = plan_refit(base, tuned, task, config, k=k, runtime=runtime)
    options.show(planned.to_json(), as_json, planned.lines())


def refit_and_show(
    base: str, tuned: str, task: Task, config: RefitSpec, runtime: Runtime, claim: Claim, *, as_json: bool, **more: Any
) -> None:
    """Fit a patch, save it, and print what is in it; `more` are further arguments of `refit_skill`."""
    from graft.localize.pair_notes import describe_differences
    from graft.refit.refit import refit_skill

    patch = refit_skill(base, tuned, task, config, **runtime.options, **more)
    kept = [structures.describe_lines_kept(patch, config)] if config.has_lines else []
    differences = describe_differences(base, tuned, config.scope, whole=False) if processes.is_first() else None
    save_and_show(patch, claim, as_json=as_json, lines=["", *describe_fit(patch), "", *kept], differences=differences)


def describe_fit(patch: Patch) -> list[str]:
    """Format the candidates that a refit chose from, one a line, the tuned model, and what is kept of its gain."""
    from graft.evaluate.kept_gain import kept_by_refit

    record = patch.provenance.refit
    lines = [_HEADER, *(_row(candidate, candidate == record["kept"]) for candidate in record["candidates"])]
    if record["tuned"] is not None:
        lines.append(_format("", "tuned", None, record["tuned"]))
    texts = record["texts"]
    lines.append(f"(on validation, nats; fitted to TUNED's outputs on {texts['n']:,} texts)")
    if not _is_better(patch):
        return [*lines, _NO_BETTER]
    kept = kept_by_refit(patch)
    return lines if kept is None else [*lines, kept.sentence]


def _is_better(patch: Patch) -> bool:
    """Return whether the kept values are better than the base, by the measure that chose them."""
    record, criterion = patch.provenance.refit, patch.provenance.method["select"]
    kept, start = (candidate["measured"] for candidate in (record["kept"], record["candidates"][0]))
    measure = criterion if criterion in start else "kl"  # without labels
    return bool(kept[measure] < start[measure])


def _row(candidate: Mapping[str, Any], is_kept: bool) -> str:
    line = _format(candidate["epoch"], candidate["kind"], candidate.get("loss"), candidate["measured"])
    return f"{line}  <- kept" if is_kept else line


def _format(epoch: object, kind: str, loss: float | None, measured: Mapping[str, Any]) -> str:
    numbers = [loss, measured["kl"], measured.get("nll")]  # what is not known has no key
    cells = "  ".join(f"{'' if number is None else format(number, '.4f'):>7}" for number in numbers)
    accuracy = f"{measured['accuracy']:.3f}" if "accuracy" in measured else ""
    return f"{epoch:>5}  {kind:<6}  {cells}  {accuracy:>8}".rstrip()
