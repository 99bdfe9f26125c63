"""The command `graft verify`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from graft_cli import options

if TYPE_CHECKING:
    from graft.hub.result_verification import ResultVerdict
    from graft.hub.verification import Verdict

SHOWN = 5  # reasons shown to a person


@click.command("verify")
@click.argument("patches", nargs=-1, required=True, metavar="PATCH...")
@click.option("--base", required=True, metavar="MODEL", help="The model that the patch should fit.")
@click.option("--full", is_flag=True, help="Compare a hash of all tensors, not only the values under the mask.")
@click.option("--result", is_flag=True, help="Print the digest of the model that base and patches give.")
@click.option("--against", metavar="CHECKPOINT", help="With --result: say whether this checkpoint is that model.")
@options.on_overlap
@options.as_json
@options.debug
def command(
    patches: tuple[str, ...],
    base: str,
    full: bool,
    result: bool,
    against: str | None,
    on_overlap: Any,
    as_json: bool,
) -> None:
    """Check whether a PATCH fits a model: names, shapes, dtypes, and the base's values under the mask.

    The PATCH file is also checked against the hashes that it holds; a file of an older version holds none, and the
    output says so.

    If one of the two is on the Hub, headers are compared first, so that a misfit is reported before anything large is
    fetched. If both are, only headers are compared, unless --full asks for the values as well.

    --result computes the SHA-256 digest of all tensors that the base and one or more patches give, as `graft apply`
    would write them, and writes nothing; it compares all of the base too. A digest that the patch was published with
    must be that one. --against tells whether a checkpoint is that model, bit for bit, and names the first tensor that
    differs.

    The exit code is 0 if the patch fits and the checkpoint is the result, 1 if not.

    \b
    Example:
      graft verify skill.safetensors --base embedded:all-MiniLM-L6-v2 --result --against runs/merged
    """
    given = [name for name in ("against", "on_overlap") if options.is_given(name)]
    if not result and (given or len(patches) > 1):
        what = f"--{given[0].replace('_', '-')} needs" if given else "several patches need"
        raise click.UsageError(f"{what} --result")
    if result:
        from graft.hub.result_verification import verify_result

        outcome = verify_result(patches, base, against=against, on_overlap=on_overlap)
        options.show(_result_to_json(outcome), as_json, _result_lines(outcome, against))
        sys.exit(0 if outcome.holds else 1)
    from graft.hub.verification import verify_patch

    verdict = verify_patch(patches[0], base, full=full)
    options.show(_to_json(verdict), as_json, list(_lines(verdict)))
    sys.exit(1 if verdict.reasons else 0)


def _to_json(verdict: Verdict) -> dict[str, object]:
    result: dict[str, object] = {"fits": not verdict.reasons, "reasons": list(verdict.reasons)}
    if verdict.is_unsealed:
        result["integrity"] = verdict.integrity
    return result | ({"checked": "headers"} if verdict.checked == "headers" else {})


def _lines(verdict: Verdict) -> Iterator[str]:
    yield from _fit_lines(verdict.reasons)
    if verdict.is_unsealed:
        yield f"(its integrity was not checked; hashes of its content: {verdict.integrity})"
    if verdict.checked == "headers":
        yield "(by names, shapes and dtypes; values were not fetched)"


def _fit_lines(reasons: tuple[str, ...]) -> Iterator[str]:
    yield "does not fit:" if reasons else "fits"
    yield from (f"  {reason}" for reason in reasons[:SHOWN])
    if len(reasons) > SHOWN:
        yield f"  and {len(reasons) - SHOWN} more; --json names them all"


def _result_to_json(verdict: ResultVerdict) -> dict[str, object]:
    content: dict[str, object] = {
        "fits": not verdict.reasons,
        "reasons": list(verdict.reasons),
        "result": verdict.digest,
        "stated": verdict.stated,
    } | ({"unsealed": list(verdict.unsealed)} if verdict.unsealed else {})
    if verdict.differences is None:
        return content
    return content | {"is_result": verdict.holds, "differing": dict(verdict.differences)}


def _result_lines(verdict: ResultVerdict, against: str | None) -> list[str]:
    lines = list(_fit_lines(verdict.reasons))
    if verdict.digest is not None:
        note = " (as published)" if verdict.stated == verdict.digest else ""
        lines.append(f"result sha256 {verdict.digest}{note}")
    lines += [f"(the content of {patch} was not checked: the file holds no hashes)" for patch in verdict.unsealed]
    if verdict.differences is None:
        return lines
    if not verdict.differences:
        same = "is that model, bit for bit" if not verdict.reasons else "is what this base and the patches give"
        return [*lines, f"{against} {same}"]
    first, fact = next(iter(verdict.differences.items()))
    n = len(verdict.differences)
    which = f"{n:,} {'tensor differs' if n == 1 else 'tensors differ'}, first {first!r}: {fact}" if first else fact
    return [*lines, f"{against} is not that model: {which}"]
