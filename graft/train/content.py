"""What a training depends on, by content and part by part, so that it is known again wherever its inputs lie.

A part is a setting, or a digest (64 hex digits) of something larger. No path is among them: a folder that moved is the
same, another file under the old name is not. The machine and the versions of packages are left aside.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from graft.files.model_config import read_model_config
from graft.specs.reader import to_plain
from graft.specs.regularize import UNIFORM
from graft.specs.train import TrainSpec
from graft.tasks.examples import Example
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.hashing import digest_of
from graft.train.importance.importance_file import FILE, digest_of_file
from graft.version import __version__

Content = dict[str, Any]
SHOWN = 4  # differences that a person reads
_PLACES = ("data", "ood", "train", "seed")  # of a task: where examples come from, in whose place they stand themselves
_TOKENIZER = re.compile(
    r"(tokenizer|special_tokens|added_tokens|vocab|merges|dict|emoji|spiece).*|.*\.(model|tiktoken|spm|codes)"
)
_UNUSED = ("_name_or_path", "transformers_version")  # of a config: where it was saved, and by what


def content_of_training(
    base: Path,
    tasks: Sequence[Task],
    config: TrainSpec,
    seed: int,
    dtype: str,
    core: str | None = None,
    **more: Any,
) -> Content:
    """All that a training's weights depend on; every bit of the base is read.

    Args:
        base: a local folder.
        tasks: their examples of train and validation count as drawn.
        config: the train block.
        seed: of order and dropout.
        dtype: as asked for.
        core: the digest of what is protected.
        more: further parts.

    Raises:
        CheckpointError, DataError: base or task cannot be read.
    """
    names = ["task"] if len(tasks) == 1 else [f"task {number}" for number in range(1, len(tasks) + 1)]
    data = {name: content_of_task(task) for name, task in zip(names, tasks, strict=True)}
    settings = {"train": describe_settings(config, base), "seed": seed, "dtype": dtype, "protected": core}
    return {"tool": __version__, **data, **settings, **more, "base": content_of_base(base)}


def content_of_base(base: Path) -> Content:
    """Digests of a model folder's weights, config and tokenizer.

    Raises:
        CheckpointError: it cannot be read.
    """
    files = [file for file in base.iterdir() if _TOKENIZER.fullmatch(file.name)] if base.is_dir() else []
    tokenizer = [[file.name, digest_of_file(file)] for file in sorted(files) if file.is_file()]
    return {
        "weights": digest_of(Checkpoint.open(base)),
        "config": _digest([{key: item for key, item in read_model_config(base).items() if key not in _UNUSED}]),
        "tokenizer": _digest(tokenizer),
    }


def content_of_task(task: Task) -> Content:
    """A task's head, labels and lengths, and what a training sees of its examples.

    Raises:
        DataError: missing or malformed data.
    """
    spec = {key: value for key, value in to_plain(task.spec).items() if key not in _PLACES}
    splits = {"train": task.train_examples(), "validation": task.validation_examples()}
    return spec | {f"{name} examples": digest_of_examples(split) for name, split in splits.items()}


def digest_of_examples(examples: Iterable[Example]) -> str:
    """64 hex digits over texts, labels and choices, in order."""
    return _digest([example.texts, example.label, example.choices] for example in examples)


def describe_settings(config: TrainSpec, base: Path) -> dict[str, Any]:
    """The train block as plain values; a file of importance by its digest instead of its path."""
    plain: dict[str, Any] = hash_named_files(to_plain(config))
    if config.regularize is not None and config.regularize.importance is None and (base / FILE).is_file():
        plain["regularize"]["importance"] = digest_of_file(base / FILE)
    return plain


def hash_named_files(plain: Any) -> Any:
    """Plain values with digests for the paths of files of importance, wherever among them such a path stands."""
    if isinstance(plain, Mapping):
        return {
            key: _digest_of_named(item) if key == "importance" and isinstance(item, str) else hash_named_files(item)
            for key, item in plain.items()
        }
    return [hash_named_files(item) for item in plain] if isinstance(plain, list) else plain


def hash_content(content: Content) -> str:
    """64 hex digits over all parts."""
    return _digest([content])


def describe_differences(begun: object, now: Content) -> str | None:
    """What differs, for a person, such as "base.weights, train.lr (0.1 then, 0.2 now)"; None where nothing does."""
    then, present = dict(_flatten(begun)), dict(_flatten(json.loads(json.dumps(now))))
    found = [
        name + _show_change(then.get(name), present.get(name))
        for name in {**present, **then}
        if then.get(name) != present.get(name)
    ]
    rest = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + rest if found else None


def _show_change(then: object, now: object) -> str:
    shown = ["absent" if value is None else str(value) for value in (then, now)]
    return "" if max(map(len, shown)) > 40 else f" ({shown[0]} then, {shown[1]} now)"


def _flatten(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(item, f"{name}.{key}" if name else str(key))
    else:
        yield name or "content", value


def _digest_of_named(importance: str) -> str:
    file = Path(importance).expanduser()
    return digest_of_file(file) if importance != UNIFORM and file.is_file() else importance


def _digest(rows: Iterable[object]) -> str:
    whole = hashlib.sha256()
    for row in rows:
        whole.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return whole.hexdigest()
