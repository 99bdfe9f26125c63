"""The command `graft verify`."""

from __future__ import annotations

import sys

import click

from graft_cli import options

SHOWN = 5  # reasons shown to a person


@click.command("verify")
@click.argument("patch")
@click.option("--base", required=True, metavar="MODEL", help="The model that the patch should fit.")
@click.option("--full", is_flag=True, help="Compare a hash of all tensors, not only the values under the mask.")
@options.as_json
@options.debug
def command(patch: str, base: str, full: bool, as_json: bool) -> None:
    """Check whether a PATCH fits a model: names, shapes, dtypes, and the base's values under the mask.

    The PATCH file is also checked against the hashes that it holds; a file of an older version holds none, and the
    output says so.

    If one of the two is on the Hub, headers are compared first, so that a misfit is reported before anything large is
    fetched. If both are, only headers are compared, unless --full asks for the values as well.

    The exit code is 0 if the patch fits, 1 if it does not.
    """
    from graft.hub.verification import verify_patch

    verdict = verify_patch(patch, base, full=full)
    reasons = verdict.reasons
    lines = ["does not fit:", *(f"  {reason}" for reason in reasons[:SHOWN])] if reasons else ["fits"]
    if len(reasons) > SHOWN:
        lines.append(f"  and {len(reasons) - SHOWN} more; --json names them all")
    result: dict[str, object] = {"fits": not reasons, "reasons": list(reasons)}
    if verdict.is_unsealed:
        result["integrity"] = verdict.integrity
        lines.append(f"(its integrity was not checked; hashes of its content: {verdict.integrity})")
    if verdict.checked == "headers":
        result["checked"] = "headers"
        lines.append("(by names, shapes and dtypes; values were not fetched)")
    options.show(result, as_json, lines)
    sys.exit(1 if reasons else 0)
