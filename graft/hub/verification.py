"""Verify that a patch fits a model, either of them local or on the Hub: by headers first, then by values."""

from __future__ import annotations

from dataclasses import dataclass

from graft.errors import HubError
from graft.files.location import is_on_hub, locate, locate_patch
from graft.hub.base_model import is_out_of_reach
from graft.hub.remote_headers import check_headers, read_remote_base, read_remote_patch
from graft.patch.compatibility import check_compatible, check_digest
from graft.patch.format.declaration import FILE_NAME
from graft.patch.format.integrity import UNSEALED
from graft.patch.format.reading import describe_integrity, load_patch, load_region
from graft.patch.merge import StoredTarget
from graft.patch.summary import Outline, outline_of
from graft.tensors.checkpoint import Checkpoint


@dataclass(frozen=True)
class Verdict:
    """Outcome of a verification.

    Attributes:
        reasons: why it does not fit; empty where it does.
        checked: "headers" where names, shapes and dtypes alone were compared and no values; else "values".
        integrity: verdict on the hashes in the patch's file, as far as it was read, or that it holds none.
    """

    reasons: tuple[str, ...]
    checked: str
    integrity: str

    @property
    def is_unsealed(self) -> bool:
        """True for a patch of an older version, which holds no hashes of its content."""
        return self.integrity == UNSEALED


def verify_patch(patch: str, base: str, *, full: bool = False) -> Verdict:
    """Compare a patch with a model; either may be on the Hub.

    If one is, headers are read first (range requests), so that a misfit is reported before anything large is fetched.
    If both are, only headers are compared, unless `full` asks for the values.

    Args:
        patch: a local file or folder, or a Hub id.
        base: a local folder, the embedded encoder, or a Hub id.
        full: also compare the hash of all the base's tensors.

    Raises:
        PatchFormatError, CheckpointError, HubError: one of the two is broken or cannot be fetched.
    """
    remote = is_on_hub(patch), is_on_hub(base)
    if any(remote):
        verdict = compare_headers(patch, base)
        if verdict is not None and (verdict.reasons or (all(remote) and not full)):
            return verdict
    path = locate_patch(patch, FILE_NAME).path
    loaded = load_patch(path)
    checkpoint = Checkpoint.open(locate(base).path)
    reasons = list(check_compatible(loaded, StoredTarget(checkpoint)).reasons)
    if full and (difference := check_digest(loaded, checkpoint)):
        reasons.append(difference)
    return Verdict(tuple(reasons), "values", describe_integrity(path))


def compare_headers(patch: str, base: str) -> Verdict | None:
    """Return the verdict by headers; None where the Hub is out of reach, so that only the cache is left."""
    try:
        outline, integrity = _read_outline(patch, is_on_hub(patch))
        listing = read_remote_base(base) if is_on_hub(base) else StoredTarget(Checkpoint.open(locate(base).path))
    except HubError as error:
        if is_out_of_reach(error):
            return None
        raise
    return Verdict(check_headers(outline, listing).reasons, "headers", integrity)


def _read_outline(patch: str, is_remote: bool) -> tuple[Outline, str]:
    """Return the outline of a patch, and the verdict on its hashes."""
    if is_remote:
        header = read_remote_patch(patch)
        return header.outline, header.integrity
    path = locate_patch(patch, FILE_NAME).path
    return outline_of(*load_region(path)), describe_integrity(path)
