"""Whether a patch fits a model, wherever the two are: headers first, values where they are here or asked for."""

from __future__ import annotations

from dataclasses import dataclass

from graft.errors import HubError
from graft.files.location import is_on_hub, locate, locate_patch
from graft.hub.base_model import is_out_of_reach
from graft.hub.preflight import foresee_fit, peek_base, peek_patch
from graft.patch.fit import check_digest, check_fit
from graft.patch.format.declaration import FILE_NAME
from graft.patch.format.integrity import UNSEALED
from graft.patch.format.reading import describe_integrity, load_patch, load_region
from graft.patch.merge import StoredTarget
from graft.patch.summary import Outline, outline_of
from graft.tensors.checkpoint import Checkpoint


@dataclass(frozen=True)
class Verdict:
    """The outcome.

    Attributes:
        reasons: why it does not fit; none where it does.
        checked: "headers" where names, shapes and dtypes alone were compared and no values; else "values".
        integrity: whether the patch's file agrees with its hashes, as far as it was read, or holds none.
    """

    reasons: tuple[str, ...]
    checked: str
    integrity: str

    @property
    def is_unsealed(self) -> bool:
        """Whether the patch is of an older version, that held no hashes of its content."""
        return self.integrity == UNSEALED


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
        foreseen = _foresee(patch, base, *afar)
        if foreseen is not None and (foreseen.reasons or (all(afar) and not full)):
            return foreseen
    path = locate_patch(patch, FILE_NAME).path
    loaded = load_patch(path)
    checkpoint = Checkpoint.open(locate(base).path)
    found = list(check_fit(loaded, StoredTarget(checkpoint)).reasons)
    if full and (difference := check_digest(loaded, checkpoint)):
        found.append(difference)
    return Verdict(tuple(found), "values", describe_integrity(path))


def _foresee(patch: str, base: str, patch_afar: bool, base_afar: bool) -> Verdict | None:
    """The verdict by headers; None where the Hub is out of reach, so that only what is in the cache can tell."""
    try:
        outline, integrity = _outline(patch, patch_afar)
        listing = peek_base(base) if base_afar else StoredTarget(Checkpoint.open(locate(base).path))
    except HubError as error:
        if is_out_of_reach(error):
            return None
        raise
    return Verdict(foresee_fit(outline, listing).reasons, "headers", integrity)


def _outline(patch: str, afar: bool) -> tuple[Outline, str]:
    """What is in a patch, and what is to be said of its hashes."""
    if afar:
        glimpse = peek_patch(patch)
        return glimpse.outline, glimpse.integrity
    path = locate_patch(patch, FILE_NAME).path
    return outline_of(*load_region(path)), describe_integrity(path)
