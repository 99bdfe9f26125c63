"""Whether a patch fits a model, wherever the two are: headers first, values where they are here or asked for."""

from __future__ import annotations

from dataclasses import dataclass

from graft.errors import HubError
from graft.hub.base_model import is_out_of_reach
from graft.hub.preflight import foresee_fit, peek_base, peek_patch
from graft.hub.pull import pull_patch
from graft.patch.file import FILE_NAME, load_region
from graft.patch.fit import check_digest, check_fit
from graft.patch.merge import StoredTarget
from graft.patch.summary import outline_of
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.location import is_on_hub, locate, locate_patch


@dataclass(frozen=True)
class Verdict:
    """The outcome.

    Attributes:
        reasons: why it does not fit; none where it does.
        checked: "headers" where names, shapes and dtypes alone were compared and no values; else "values".
    """

    reasons: tuple[str, ...]
    checked: str


def verify_patch(patch: str, base: str, *, full: bool = False) -> Verdict:
    """Compare a patch with a model; either may be on the Hub.

    Where one is, headers are read first (range requests), and what cannot fit is said before anything large is
    fetched. Where both are, this is all, unless `full` asks for the values.

    Args:
        patch: a local file or folder, or a Hub id.
        base: a local folder, the embedded encoder, or a Hub id.
        full: also compare the digest of all the base's tensors.

    Raises:
        PatchFormatError, CheckpointError, HubError: one of the two is broken or cannot be had.
    """
    afar = is_on_hub(patch), is_on_hub(base)
    if any(afar):
        reasons = _foresee(patch, base, *afar)
        if reasons or (all(afar) and not full and reasons is not None):
            return Verdict(reasons, "headers")
    loaded = pull_patch(patch)
    checkpoint = Checkpoint.open(locate(base).path)
    found = list(check_fit(loaded, StoredTarget(checkpoint)).reasons)
    if full and (difference := check_digest(loaded, checkpoint)):
        found.append(difference)
    return Verdict(tuple(found), "values")


def _foresee(patch: str, base: str, patch_afar: bool, base_afar: bool) -> tuple[str, ...] | None:
    """Reasons by headers; None where the Hub is out of reach, so that only what is in the cache can tell."""
    try:
        outline = (
            peek_patch(patch).outline if patch_afar else outline_of(*load_region(locate_patch(patch, FILE_NAME).path))
        )
        listing = peek_base(base) if base_afar else StoredTarget(Checkpoint.open(locate(base).path))
    except HubError as error:
        if is_out_of_reach(error):
            return None
        raise
    return foresee_fit(outline, listing).reasons
