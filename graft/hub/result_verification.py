"""Verify a lineage: the digest of the model that a base and patches give, and whether a checkpoint is that model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graft.errors import PatchMismatchError
from graft.files.location import is_on_hub, locate, locate_patch
from graft.hub.verification import compare_headers
from graft.patch.compatibility import compare_digest
from graft.patch.format.declaration import FILE_NAME
from graft.patch.format.integrity import UNSEALED
from graft.patch.format.reading import describe_integrity, load_patch
from graft.patch.overlap_rules import OverlapRule
from graft.patch.result import ResultCheckpoint, digests_of, find_differences
from graft.patch.skill_patch import Patch
from graft.tensors.checkpoint import Checkpoint


@dataclass(frozen=True)
class ResultVerdict:
    """Outcome of the verification of a result.

    Attributes:
        reasons: why the patches do not belong to the base, or a published digest is wrong; empty where all agrees.
        digest: of all tensors that base and patches give; None where headers alone tell that they do not fit.
        stated: the digest that the patch's file states; None where it states none, or for several patches.
        differences: tensors of the checkpoint that was compared that are not the result's -> what differs;
            None where none was compared.
        unsealed: the patches whose files hold no hashes of their content.
    """

    reasons: tuple[str, ...]
    digest: str | None = None
    stated: str | None = None
    differences: Mapping[str, str] | None = None
    unsealed: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """True where the patches belong to the base and a checkpoint that was compared is the result."""
        return not self.reasons and not self.differences


def verify_result(
    patches: Sequence[str], base: str, *, against: str | None = None, on_overlap: OverlapRule = "error"
) -> ResultVerdict:
    """Compute the digest of the model that a base and patches give, which is not written anywhere.

    The base is read once for its own digest and the result's, tensor by tensor; with a checkpoint to compare once more.

    Args:
        patches: local files or folders, or Hub ids.
        base: a local folder, the embedded encoder, or a Hub id.
        against: a checkpoint that may be that model, under names with any prefix.
        on_overlap: what to do where patches want different values.

    Raises:
        PatchMismatchError, OverlapError: a patch does not fit, or two disagree.
        PatchFormatError, CheckpointError, HubError: one of the inputs is broken or cannot be fetched.
    """
    for patch in patches:
        verdict = compare_headers(patch, base) if is_on_hub(patch) or is_on_hub(base) else None
        if verdict is not None and verdict.reasons:
            return ResultVerdict(verdict.reasons)
    paths = [locate_patch(patch, FILE_NAME).path for patch in patches]
    loaded = [load_patch(path) for path in paths]
    checkpoint = Checkpoint.open(locate(base).path)
    other = Checkpoint.open(locate(against).path) if against is not None else None
    result = ResultCheckpoint(checkpoint, loaded, on_overlap)
    before, digest = digests_of(result)
    reasons = [reason for patch in loaded if (reason := compare_digest(patch, before))]
    stated = loaded[0].provenance.result if len(loaded) == 1 else None
    if not reasons and stated not in (None, digest):
        reasons.append(_stale(stated, digest))
    differences = None if other is None else find_differences(result, other)
    unsealed = (patch for patch, path in zip(patches, paths, strict=True) if describe_integrity(path) == UNSEALED)
    return ResultVerdict(tuple(reasons), digest, stated, differences, tuple(unsealed))


def digest_result(patch: Patch, base: str | Path) -> str:
    """Return the digest of the model that a base and one patch give.

    Raises:
        PatchMismatchError: the patch is not of this base, or states another digest.
        CheckpointError, HubError: the base cannot be had.
    """
    checkpoint = Checkpoint.open(locate(base).path)
    before, digest = digests_of(ResultCheckpoint(checkpoint, [patch]))
    reason = compare_digest(patch, before)
    stated = patch.provenance.result
    if reason is None and stated not in (None, digest):
        reason = _stale(stated, digest)
    if reason is not None:
        raise PatchMismatchError(f"{base}: {reason}")
    return digest


def _stale(stated: str | None, digest: str) -> str:
    return f"the patch states the result {str(stated)[:16]}…, base and patch give {digest[:16]}…"
