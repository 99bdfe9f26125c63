"""Content of a training: all that its weights depend on, part by part, by which it is recognized.

A part is a setting, or a digest (64 hex digits) of something larger. No path is among them: a folder that moved is the
same, another file under the old name is not. The machine and the versions of packages do not count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from graft.files.model_config import read_model_config
from graft.specs.reader import to_plain
from graft.specs.regularize import UNIFORM
from graft.specs.task import TaskSpec
from graft.specs.train import TrainSpec
from graft.tasks.examples import Example
from graft.tasks.task import Task
from graft.tensors.checkpoint import Checkpoint
from graft.tensors.hashing import digest_of
from graft.tensors.vocabulary import is_of_tokenizer
from graft.train.importance.importance_file import FILE, digest_of_file
from graft.train.master_weights import loaded_dtype, widens
from graft.version import __version__

Content = dict[str, Any]
SHOWN = 4  # differences that a message names
_REPLACED = ("data", "ood", "train", "seed")  # keys of a task in whose place the examples themselves count
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
    """Return all that a training's weights depend on; every bit of the base is read.

    Args:
        base: a local folder.
        tasks: their examples of train and validation count as drawn.
        config: the train block.
        seed: of the order of examples and dropout.
        dtype: as asked for.
        core: the digest of the protected set.
        more: further parts.

    Raises:
        CheckpointError, DataError: base or task cannot be read.
    """
    names = ["task"] if len(tasks) == 1 else [f"task {number}" for number in range(1, len(tasks) + 1)]
    data = {name: content_of_task(task) for name, task in zip(names, tasks, strict=True)}
    settings = {"train": describe_settings(config, base, dtype), "seed": seed, "dtype": dtype, "protected": core}
    return {"tool": __version__, **data, **settings, **more, "base": content_of_base(base)}


def content_of_base(base: Path) -> Content:
    """Return digests of a model folder's weights, config and tokenizer.

    Raises:
        CheckpointError: it cannot be read.
    """
    files = [file for file in base.iterdir() if is_of_tokenizer(file.name)] if base.is_dir() else []
    files += base.glob("additional_chat_templates/*")
    tokenizer = [[file.name, digest_of_file(file)] for file in sorted(files) if file.is_file()]
    return {
        "weights": digest_of(Checkpoint.open(base)),
        "config": _digest([{key: item for key, item in read_model_config(base).items() if key not in _UNUSED}]),
        "tokenizer": _digest(tokenizer),
    }


def content_of_task(task: Task) -> Content:
    """Return a task's head, labels and lengths, and digests of its examples of train and validation.

    Raises:
        DataError: missing or malformed data.
    """
    splits = {"train": task.train_examples(), "validation": task.validation_examples()}
    digests = {f"{name} examples": digest_of_examples(split) for name, split in splits.items()}
    return describe_task(task.spec) | digests


def describe_task(spec: TaskSpec) -> Content:
    """Return a task's head, labels and lengths, in whose place no examples count."""
    return {key: value for key, value in to_plain(spec).items() if key not in _REPLACED}


def digest_of_examples(examples: Iterable[Example]) -> str:
    """Return 64 hex digits over texts, labels, choices and roles, in order."""
    return _digest([example.texts, example.label, example.choices, *_roles_of(example)] for example in examples)


def _roles_of(example: Example) -> list[tuple[str, ...]]:
    return [example.roles] if example.roles else []


def describe_settings(config: TrainSpec, base: Path, dtype: str) -> dict[str, Any]:
    """Return the train block as plain values, with the digest of a file of importance in place of its path.

    Left out are the size of micro-batches, which moves results by rounding and draws of dropout alone, as the number of
    processes does, and a precision that changes nothing: of a base in fp32, and "pure".
    """
    plain: dict[str, Any] = hash_named_files(to_plain(config))
    plain.pop("micro_batch_size", None)
    if not widens(config.precision, loaded_dtype(Checkpoint.open(base), dtype)):
        del plain["precision"]
    if config.regularize is not None and config.regularize.importance is None and (base / FILE).is_file():
        plain["regularize"]["importance"] = digest_of_file(base / FILE)
    return plain


def hash_named_files(plain: Any) -> Any:
    """Replace the path of a file of importance by its digest, wherever it occurs in plain values."""
    if isinstance(plain, Mapping):
        return {
            key: _digest_of_named(item) if key == "importance" and isinstance(item, str) else hash_named_files(item)
            for key, item in plain.items()
        }
    return [hash_named_files(item) for item in plain] if isinstance(plain, list) else plain


def hash_content(content: Content) -> str:
    """Return 64 hex digits over all parts."""
    return _digest([content])


def describe_differences(begun: object, now: Content) -> str | None:
    """Describe differences for a person, as "base.weights, train.lr (0.1 then, 0.2 now)"; None where there is none."""
    then, present = dict(_flatten(begun)), dict(_flatten(json.loads(json.dumps(now))))
    changes = [
        name + _show_change(then.get(name), present.get(name))
        for name in {**present, **then}
        if then.get(name) != present.get(name)
    ]
    rest = f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
    return ", ".join(changes[:SHOWN]) + rest if changes else None


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
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
