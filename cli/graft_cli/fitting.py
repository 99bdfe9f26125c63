"""What a refit measured on validation, for a person: the user chooses between accuracy and calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graft.patch.skill_patch import Patch

_HEADER = f"{'epoch':>5}  {'values':<6}  {'loss':>7}  {'KL':>7}  {'NLL':>7}  {'accuracy':>8}"


def describe_fit(patch: Patch) -> list[str]:
    """Format the candidates that a refit chose from, one a line, and the tuned model."""
    record = patch.provenance.refit
    lines = [_HEADER, *(_row(candidate, candidate == record["kept"]) for candidate in record["candidates"])]
    if record["tuned"] is not None:
        lines.append(_format("", "tuned", None, record["tuned"]))
    texts = record["texts"]
    return [*lines, f"(on validation, nats; fitted to TUNED's outputs on {texts['n']:,} texts)"]


def _row(candidate: Mapping[str, Any], is_kept: bool) -> str:
    line = _format(candidate["epoch"], candidate["kind"], candidate.get("loss"), candidate["measured"])
    return f"{line}  <- kept" if is_kept else line


def _format(epoch: object, kind: str, loss: float | None, measured: Mapping[str, Any]) -> str:
    numbers = [loss, measured["kl"], measured.get("nll")]  # what is not known has no key
    cells = "  ".join(f"{'' if number is None else format(number, '.4f'):>7}" for number in numbers)
    accuracy = f"{measured['accuracy']:.3f}" if "accuracy" in measured else ""
    return f"{epoch:>5}  {kind:<6}  {cells}  {accuracy:>8}".rstrip()
