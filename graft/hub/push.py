"""Push a patch: patch, card, plot and recipe go up in one commit, or nothing does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.arguments import checked
from graft.compose.base_values import find_embedded
from graft.errors import CheckpointError, ConfigError, HubError
from graft.files.location import locate
from graft.hub.adapter_files import make_adapter_files
from graft.hub.base_model import BaseModel, check_id, choose_license, is_out_of_reach, look_up_base
from graft.hub.card import CardFacts, compose_card
from graft.hub.commit import send_commit, sign_in
from graft.hub.privacy import refuse_private
from graft.hub.remote_headers import check_headers, read_remote_base
from graft.hub.repo_files import PLOT, RECIPE, RepoFiles, draw_mask, find_run_files, read_recipe
from graft.hub.result_verification import digest_result
from graft.patch.format.declaration import FILE_NAME
from graft.patch.format.reading import load_region
from graft.patch.format.writing import patch_bytes
from graft.patch.mask import Mask
from graft.patch.provenance import BaseIdentity, Provenance
from graft.patch.skill_patch import Patch
from graft.patch.summary import Outline, outline_of
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.hashing import digest_of

CARD = "README.md"


@dataclass(frozen=True)
class Pushed:
    """Result of a push, or with `dry_run` of one that was not sent.

    Attributes:
        repository: its full Hub id.
        files: name -> bytes.
        notes: remarks for the author, such as why the card names no base.
        commit: 40 hex digits; None where nothing was sent.
        pull_request: its address, if one was requested.
    """

    repository: str
    files: dict[str, bytes]
    notes: tuple[str, ...]
    commit: str | None = None
    pull_request: str | None = None

    @property
    def card(self) -> str:
        """The card's text."""
        return self.files[CARD].decode()


@checked
def push_patch(
    patch: Patch | Path | str,
    repository: str,
    *,
    base_model: str | None = None,
    base: str | Path | None = None,
    licence: str | None = None,
    datasets: Sequence[str] = (),
    recipe: Path | None = None,
    with_adapter: bool = False,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    message: str | None = None,
    dry_run: bool = False,
) -> Pushed:
    """Publish a patch or mask on the Hub as one commit; the repository is made where it is missing.

    Args:
        patch: a patch in memory, or a local file or folder.
        repository: Hub id, NAME or ORG/NAME.
        base_model: Hub id of the base, if the patch does not name it.
        base: the base model, to publish the digest of the result, and for the adapter, which is made by default against
            the base's Hub id; the embedded encoder is found by its name.
        licence: of the patch; by default the one it states, else the base's.
        datasets: Hub ids of the training data.
        recipe: the YAML file that made it, published beside it.
        with_adapter: publish an exact LoRA adapter beside it, which transformers loads with PEFT alone.
        private: make a new repository private.
        revision: branch to commit to, made where it is missing.
        create_pr: open a pull request instead.
        message: of the commit.
        dry_run: compose everything and send nothing.

    Raises:
        PatchFormatError: the file is not a patch.
        PatchError: it names a place on this machine, or no adapter holds it exactly.
        PatchMismatchError: the base cannot be the patch's, or does not give the result that the patch states.
        ConfigError: an id, license or recipe that cannot be published.
        HubError: the Hub refused, or could not be reached; nothing was published.
    """
    _check_target(repository, revision, create_pr)
    region, provenance = (patch, patch.provenance) if isinstance(patch, Patch) else load_region(patch)
    refuse_private(provenance.to_json(), "the patch's metadata")
    run_files = RepoFiles() if isinstance(patch, Patch) else find_run_files(Path(patch))
    more = {RECIPE: read_recipe(recipe)} if recipe else {}
    full_name = sign_in(repository, offline_too=dry_run)
    on_hub, notes = _find_base(outline_of(region, provenance), base_model, full_name, dry_run)
    region, provenance = _state_result(region, provenance, base)
    chosen = choose_license(licence or provenance.licence, on_hub)
    notes += [] if chosen else ["no license is stated, neither by you (--license) nor by the base"]
    more |= make_adapter_files(region, base, on_hub.id if on_hub else None) if with_adapter else {}
    facts = CardFacts(full_name, on_hub, chosen, tuple(check_id(dataset, "--dataset") for dataset in datasets))
    files = _compose(region, provenance, run_files.files | more, facts)
    pushed = Pushed(full_name, files, (*notes, *run_files.notes))
    if dry_run:
        return pushed
    target: dict[str, Any] = {"private": private, "revision": revision, "create_pr": create_pr}
    sent = send_commit(full_name, files, message or f"Skill patch of {len(region):,} weights", **target)
    return dataclasses.replace(pushed, commit=sent.oid, pull_request=sent.pr_url)


def _state_result(
    region: Patch | Mask, provenance: Provenance, base: str | Path | None
) -> tuple[Patch | Mask, Provenance]:
    """State in a patch the digest of what it gives, where its base is at hand.

    Raises:
        ConfigError: a base for a mask, which gives nothing.
        PatchMismatchError: the base is another, or the patch states another digest.
    """
    if not isinstance(region, Patch):
        if base is not None:
            raise ConfigError("--base: a mask holds no values, so that it has no result")
        return region, provenance
    at_hand = base if base is not None else _embedded_base(provenance.base)
    if at_hand is None:
        return region, provenance
    provenance = dataclasses.replace(provenance, result=digest_result(region, at_hand))
    return dataclasses.replace(region, provenance=provenance), provenance


def _embedded_base(identity: BaseIdentity) -> str | None:
    """Find the embedded encoder where it is the base itself, and not another model of its name."""
    embedded = find_embedded(identity)
    is_base = embedded is not None and digest_of(Checkpoint.open(locate(embedded).path)) == identity.digest
    return embedded if is_base else None


def _check_target(repository: str, revision: str | None, create_pr: bool) -> None:
    check_id(repository, "REPO_ID")
    if create_pr and revision not in (None, "main"):
        raise ConfigError("--create-pr and --revision exclude each other: the Hub opens pull requests on main")


def _compose(
    region: Patch | Mask, provenance: Provenance, others: Mapping[str, bytes], facts: CardFacts
) -> dict[str, bytes]:
    """Return every file of the commit, the card last, since it refers to the others."""
    mask = region.mask if isinstance(region, Patch) else region
    files = {FILE_NAME: patch_bytes(region, provenance), PLOT: draw_mask(mask), **others}
    facts = dataclasses.replace(facts, n_bytes=len(files[FILE_NAME]), files=frozenset(files))
    return files | {CARD: compose_card(outline_of(region, provenance), facts).encode()}


def _find_base(
    outline: Outline, requested: str | None, besides: str, dry_run: bool
) -> tuple[BaseModel | None, list[str]]:
    """Return the base on the Hub, None for a local one, and notes on it for the author."""
    identity = outline.provenance.base
    name = requested or identity.id
    if name is None:
        local = identity.name or "unknown"
        return None, [f"the base is local ({local}), so that the card names no base_model; pass --base-model HUB_ID"]
    check_id(name, "--base-model" if requested else "the patch's base")
    try:
        base = look_up_base(name, besides=besides)
    except HubError as error:
        if dry_run and is_out_of_reach(error):
            return BaseModel(name), [f"the Hub was not asked about {name}: its license and other patches are unknown"]
        raise
    return base, [] if dry_run else _compare_base(outline, base)


def _compare_base(outline: Outline, base: BaseModel) -> list[str]:
    """Refuse a base that the patch cannot fit, by its headers; return a note where they cannot be compared.

    Raises:
        PatchMismatchError: another name, shape or dtype.
    """
    try:
        listing = read_remote_base(base.id)
    except (CheckpointError, HubError) as error:
        return [f"the patch was not compared with {base.id} ({error})"]
    check_headers(outline, listing).require(base.id)
    return []
