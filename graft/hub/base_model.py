"""What the Hub says of a patch's base: that it is there, its licence, and the other patches on it."""

from __future__ import annotations

from dataclasses import dataclass

from graft.errors import ConfigError, HubError
from graft.files.hub_failures import explain_failure, failures, is_broken_connection, root_of

MOST_SIBLINGS = 20
TAG = "skill-patch"
# under these a patch may be given any licence; under others it keeps the base's, from which it is derived
PERMISSIVE = frozenset(
    {"apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "cc0-1.0", "unlicense", "cc-by-4.0", "bsl-1.0"}
)


@dataclass(frozen=True)
class Licence:
    """A licence as a card names it: an identifier, and a name and link where that is "other"."""

    id: str
    name: str | None = None
    link: str | None = None


@dataclass(frozen=True)
class BaseModel:
    """A base on the Hub.

    Attributes:
        id: its Hub id.
        licence: what its card states; None where it states nothing.
        siblings: ids of other patches on the same base, newest first as the Hub lists them.
    """

    id: str
    licence: Licence | None = None
    siblings: tuple[str, ...] = ()


def check_id(text: str, what: str) -> str:
    """The text, where it is a Hub id.

    Raises:
        ConfigError: it is not, as a local path is not.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError as error:
        raise ConfigError(f"{what}: {text!r} is not a Hub id; write NAME or ORG/NAME, not a path") from error
    return text


def look_up_base(repository: str, *, besides: str) -> BaseModel:
    """Ask the Hub for a base; `besides` is the patch's own repository, which is no sibling.

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
        fact = explain_failure(error, repository)
        raise HubError(f"base model: {fact} (--base-model names another)") from error
    found = [check_id(other, "a patch on the same base") for other in others if other != besides]
    return BaseModel(repository, _licence_of(card), tuple(found[:MOST_SIBLINGS]))


def is_out_of_reach(error: HubError) -> bool:
    """Whether the Hub could not be asked at all: offline by wish, or no connection."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    cause = error.__cause__
    return cause is not None and (isinstance(root_of(cause), OfflineModeIsEnabled) or is_broken_connection(cause))


def settle_licence(own: str | None, base: BaseModel | None) -> Licence | None:
    """The licence that the card states: the author's where the base's allows it, else the base's.

    Raises:
        ConfigError: the base's licence binds what is derived from it, and the author states another.
    """
    of_base = base.licence if base else None
    if own is None or of_base is None:
        return Licence(own) if own else of_base
    if own != of_base.id and of_base.id not in PERMISSIVE:
        raise ConfigError(
            f"licence {own!r}: {base.id if base else 'the base'} is under {of_base.id!r}, and a patch holds weights "
            "derived from it; state the same one"
        )
    return of_base if own == of_base.id else Licence(own)


def _licence_of(card: object) -> Licence | None:
    texts = [getattr(card, key, None) for key in ("license", "license_name", "license_link")]
    licence, name, link = (text if isinstance(text, str) and text else None for text in texts)
    return Licence(licence, name, link) if licence else None
