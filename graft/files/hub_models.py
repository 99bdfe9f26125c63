"""Models of the Hub: the files at the root that say what a model is, the weights that they name, and nothing else.

A repository often holds the same weights for several frameworks and programs; none of these is fetched. Where the Hub
cannot be reached, a model counts as cached if its weights are there, whatever else its repository holds.
"""

from __future__ import annotations

import contextlib
import glob
import re
from collections.abc import Iterator
from pathlib import Path

from graft.errors import CheckpointError
from graft.files.model_config import modules_in
from graft.files.weight_index import INDEX, SINGLE, read_index

ROOT = ["*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken"]  # of config and tokenizer
BELOW = "*/*"
_FILE_ENDINGS = re.compile(
    r".*\.(safetensors|bin|pt|pth|ckpt|gguf|h5|onnx|ya?ml|jsonl?|csv|parquet|txt|md|html?|py|zip|tar|gz)", re.IGNORECASE
)


def require_hub_id(text: str) -> None:
    """Refuse what cannot be a Hub id, before the Hub is asked for it.

    Raises:
        ValueError: not NAME or ORG/NAME with @revision behind it, or the name of a file.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    repository, at, revision = text.partition("@")
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ValueError(repository) from error
    if _FILE_ENDINGS.fullmatch(repository) or (at and re.search(r"[\s@~^:?*\[\\]|\.\.", revision)):
        raise ValueError(text)


def fetch_model(repository: str, revision: str | None) -> Path:
    """Return the folder of a model in the cache, fetched first where the Hub can be reached.

    Raises:
        huggingface_hub's errors: it cannot be had (`graft.files.hub_failures.failures`).
        CheckpointError: its index of shards is not valid.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        root = _snapshot(repository, revision, ROOT, [BELOW])
        return _snapshot(repository, root.name, sorted(_needed_patterns(root)), None)
    except LocalEntryNotFoundError:
        cached = find_cached(repository, revision)
        if cached is None:
            raise
        return cached


def find_cached(repository: str, revision: str | None) -> Path | None:
    """Return the folder of a model that the cache holds whole; the Hub is not asked."""
    cached = _cached(repository, revision)
    return cached if cached is not None and _is_complete(cached) else None


def _snapshot(repository: str, revision: str | None, allowed: list[str], ignored: list[str] | None) -> Path:
    from huggingface_hub import snapshot_download

    with _without_warnings():  # that nothing matches is said by what reads the folder
        folder = snapshot_download(repository, revision=revision, allow_patterns=allowed, ignore_patterns=ignored)
    return Path(folder)


def _cached(repository: str, revision: str | None) -> Path | None:
    """Return the snapshot that is in the cache, whatever is missing of it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=[], local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _needed_patterns(folder: Path) -> set[str]:
    """Return patterns of the weights that the files at the root name, and of a sentence encoder's parts."""
    parts = {
        f"{glob.escape(part)}/*{kind}" for part in modules_in(folder) for kind in (".json", ".txt", ".safetensors")
    }
    return {glob.escape(name) for name in _weights_of(folder)} | parts


def _weights_of(folder: Path) -> set[str]:
    """Return the weight files that the index names, else the single file; an adapter's, where it is one."""
    if (folder / INDEX).is_file():
        return set(read_index(folder / INDEX).values())
    is_adapter = (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()
    return {"adapter_model.safetensors" if is_adapter else SINGLE}


def _is_complete(folder: Path) -> bool:
    """Return whether a config is there, with every weight file of the index or, without one, the single file."""
    try:
        needed = [*_weights_of(folder), *modules_in(folder)]
    except CheckpointError:
        return False
    is_described = (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file()
    return is_described and all((folder / name).exists() for name in needed)


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    from huggingface_hub.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(level)
