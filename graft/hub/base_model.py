"""Base model of a patch on the Hub: its presence, its license, and other patches on it."""

from __future__ import annotations

from dataclasses import dataclass

from graft.errors import ConfigError, HubError
from graft.files.hub_failures import explain_failure, failures, is_broken_connection, root_of

MOST_SIBLINGS = 20
TAG = "skill-patch"
# a base under one of these licenses allows any license for a patch; under others the patch keeps the base's
PERMISSIVE = frozenset(
    {"apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "unlicense", "cc-by-4.0", "bsl-1.0"}
)


@dataclass(frozen=True)
class License:
    """License as a card names it: an identifier, with a name and a link where that is "other"."""

    id: str
    name: str | None = None
    link: str | None = None


@dataclass(frozen=True)
class BaseModel:
    """Base model on the Hub.

    Attributes:
        id: its Hub id.
        licence: that its card states; None where it states none.
        siblings: ids of other patches on the same base, newest first as the Hub lists them.
    """

    id: str
    licence: License | None = None
    siblings: tuple[str, ...] = ()


def check_id(text: str, what: str) -> str:
    """Return the text if it is a Hub id.

    Raises:
        ConfigError: it is none, such as a local path.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError as error:
        raise ConfigError(f"{what}: {text!r} is not a Hub id; write NAME or ORG/NAME, not a path") from error
    return text


def look_up_base(repository: str, *, besides: str) -> BaseModel:
    """Ask the Hub for a base; `besides` is the patch's own repository, left out of the siblings.

    Raises:
        HubError: there is no such base, or the Hub cannot be asked.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        card = api.model_info(repository).card_data
        relation = f"base_model:adapter:{repository}"
        others = [model.id for model in api.list_models(filter=[TAG, relation], limit=MOST_SIBLINGS + 1)]
    except failures() as error:
        reason = explain_failure(error, repository)
        raise HubError(f"base model: {reason} (--base-model names another)") from error
    siblings = [check_id(other, "a patch on the same base") for other in others if other != besides]
    return BaseModel(repository, _license_of(card), tuple(siblings[:MOST_SIBLINGS]))


def is_out_of_reach(error: HubError) -> bool:
    """Return whether the Hub could not be asked at all: offline mode, or no connection."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    cause = error.__cause__
    return cause is not None and (isinstance(root_of(cause), OfflineModeIsEnabled) or is_broken_connection(cause))


def choose_license(own: str | None, base: BaseModel | None) -> License | None:
    """Return the license for the card: the author's if the base's license allows it, else the base's.

    Raises:
        ConfigError: the base's license binds what is derived from it, and the author states another.
    """
    of_base = base.licence if base else None
    if own is None or of_base is None:
        return License(own) if own else of_base
    if own != of_base.id and of_base.id not in PERMISSIVE:
        raise ConfigError(
            f"license {own!r}: {base.id if base else 'the base'} is under {of_base.id!r}, and a patch holds weights "
            "derived from it; state the same one"
        )
    return of_base if own == of_base.id else License(own)


def _license_of(card: object) -> License | None:
    texts = [getattr(card, key, None) for key in ("license", "license_name", "license_link")]
    licence, name, link = (text if isinstance(text, str) and text else None for text in texts)
    return License(licence, name, link) if licence else None
