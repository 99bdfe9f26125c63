"""Loading of models: exactly the weights of the folder's checkpoint, and none drawn at random unasked."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import tempfile
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from graft.errors import CheckpointError
from graft.files.model_config import refuse_oversized, refuse_pipes
from graft.parallel.launch import find_ranks
from graft.sources.made_checkpoint import MadeCheckpoint, folder_of
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.dtypes import TORCH_DTYPES
from graft.tensors.vocabulary import open_tokenizer

_noted: set[tuple[Path, str]] = set()  # one note a folder and kind
_told: set[Hashable] = set()


def load_model(
    kind: Any,
    model: Path | Checkpoint,
    dtype: torch.dtype | str,
    *,
    may_lack: Callable[[str, str], bool] | None = None,
    **options: Any,
) -> tuple[Any, list[str]]:
    """Load the weights of a local folder, or of a checkpoint, with one of transformers' Auto classes.

    Files and dtype are those of the folder's checkpoint (`graft.tensors.checkpoint`), whatever transformers would have
    picked.

    Args:
        kind: an Auto class.
        model: the folder, or the checkpoint.
        dtype: a torch dtype; "auto" for that of most weights in the files.
        may_lack: (the model's base_model_prefix, name) -> True for a weight that is made anew where the files lack it.
        options: for `from_pretrained`.

    Returns:
        The model, and the names of the weights that were made anew.

    Raises:
        CheckpointError: the folder cannot be loaded, or lacks a weight that the model reads; it is named.
    """
    path = folder_of(model)
    if not path.is_dir():
        raise CheckpointError(f"{path}: a model folder with config and tokenizer is needed here")
    checkpoint = model if isinstance(model, Checkpoint) else Checkpoint.open(path)
    _note_left_out(checkpoint)
    wanted = TORCH_DTYPES[checkpoint.dtype] if dtype == "auto" else dtype
    load = _load_made if isinstance(checkpoint, MadeCheckpoint) else _load_stored
    loaded, report = load(kind, checkpoint, wanted, options)
    loaded.config._name_or_path = str(path)
    for part in loaded.modules():
        if getattr(getattr(part, "config", None), "return_dict", True) is False:
            part.config.return_dict = True  # a config may ask for tuples, which have no names
    lacking = sorted(report["missing_keys"])
    for name in lacking:
        if may_lack is None or not may_lack(loaded.base_model_prefix, name):
            raise CheckpointError(f"{path}: lacks the tensor {name!r}, which {type(loaded).__name__} reads here")
    return loaded, lacking


def load_tokenizer(model: Path | Checkpoint) -> Any:
    """Load the tokenizer of a model folder, or of the folder that stands in for one.

    Raises:
        CheckpointError: there is none, or transformers cannot load it.
    """
    from transformers import AutoTokenizer

    path = folder_of(model)
    if isinstance(model, MadeCheckpoint) and open_tokenizer(path) is None:
        raise CheckpointError(f"{path.name}: the model comes without a tokenizer, which its texts need (tokenizer=)")
    return load_pretrained(AutoTokenizer, path)


def _load_stored(kind: Any, checkpoint: Checkpoint, dtype: Any, options: dict[str, Any]) -> Any:
    with _folder_of(checkpoint) as folder:
        return load_pretrained(kind, folder, dtype=dtype, output_loading_info=True, **options)


def _load_made(kind: Any, checkpoint: Checkpoint, dtype: Any, options: dict[str, Any]) -> Any:
    """Load from tensors that are made one by one; the loaded model keeps these, so that memory holds one of each."""
    from transformers import AutoConfig

    config = load_pretrained(AutoConfig, checkpoint.path, **options)
    with torch.device("meta"):  # an Auto class itself loads from paths alone
        model_class = type(_call_quietly(checkpoint.path, kind.from_config, config))
    state = {name: checkpoint.read(name).clone() for name in checkpoint.names}
    return _call_quietly(
        checkpoint.path,
        model_class.from_pretrained,
        None,
        config=config,
        state_dict=state,
        dtype=dtype,
        output_loading_info=True,
    )


def load_pretrained(kind: Any, path: Path, **options: Any) -> Any:
    """Call `kind.from_pretrained` for a local folder, quietly, and turn its errors into ours.

    Raises:
        CheckpointError: the folder cannot be loaded.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path}: a model folder with config and tokenizer is needed here")
    refuse_pipes(path)
    refuse_oversized(path)
    return _call_quietly(path, kind.from_pretrained, path, local_files_only=True, trust_remote_code=False, **options)


def _call_quietly(path: Path, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    try:
        with quiet_transformers():
            return function(*args, **options)
    except Exception as error:  # of many kinds, those of the libraries below it among them
        fact = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: transformers cannot load it ({fact})") from error


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' reports and progress bars within a block."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def tokenizer_digest(path: Path) -> str | None:
    """Return the SHA-256 of a model folder's tokenizer file, None where there is none."""
    for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"):
        if (path / name).is_file():
            return hashlib.sha256((path / name).read_bytes()).hexdigest()
    return None


def tell(line: str) -> None:
    """Print a line on stderr, once for all processes of a run."""
    if find_ranks().is_first:
        tqdm.write(line, file=sys.stderr)


def tell_once(line: str, about: Hashable = None) -> None:
    """Print a line on stderr as `tell` does, unless it was printed before, or another about the same."""
    keys = {line} | ({about} - {None})
    if _told.isdisjoint(keys):
        tell(line)
    _told.update(keys)


def _note_left_out(checkpoint: Checkpoint) -> None:
    """Name unused content of the folder on stderr: files of other weights, heads, layers past the last."""
    files = [file.name for file in checkpoint.unused_files()]
    architecture = checkpoint.architecture
    known = architecture.legacy if architecture else None
    tensors = [name for name in sorted(checkpoint.left_out) if known is None or not known.search(name)]
    for kind, names in (
        ("weights not named by the checkpoint", files),
        ("tensors that its model does not have", tensors),
    ):
        if names and (checkpoint.path, kind) not in _noted:
            _noted.add((checkpoint.path, kind))
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            tell(f"{checkpoint.path.name}: {kind} are left out: {', '.join(names[:3])}{more}")


@contextlib.contextmanager
def _folder_of(checkpoint: Checkpoint) -> Iterator[Path]:
    """Yield the folder, or one with links to all of it but weights that are not the checkpoint's."""
    unused = set(checkpoint.unused_files())
    if not unused:
        yield checkpoint.path
        return
    with tempfile.TemporaryDirectory(prefix="graft-") as name:
        for file in checkpoint.path.iterdir():
            if file not in unused:
                (Path(name) / file.name).symlink_to(file.resolve())
        yield Path(name)
