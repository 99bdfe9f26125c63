"""The head that a model's config.json names: the class that it is loaded as, and what its outputs are called.

A patch that brings a head carries this in its task, under "head"; a merged folder is told of it, so that transformers
loads it with that head.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graft.files.model_config import read_model_config
from graft.patch.skill_patch import Patch
from graft.tensors.scope import kind_of

# what else of a config a head's outputs depend on: where it pools, and by which token it finds the end
_KEYS: tuple[str, ...] = ("pad_token_id", "problem_type", "classifier_pooling", "classifier_activation")
_KEYS += ("classifier_bias", "norm_bias", "pooler_act", "summary_type", "summary_use_proj", "summary_activation")
_KEYS += ("summary_proj_to_labels",)


def read_head(folder: Path) -> dict[str, Any]:
    """The head of a model folder: its architecture, labels in the order of the outputs, and settings; {} if unknown."""
    config = read_model_config(folder)
    named = config.get("architectures")
    if not (isinstance(named, list) and named and isinstance(named[0], str)):
        return {}
    settings = {key: config[key] for key in _KEYS if key in config and _is_plain(config[key])}
    labels = _labels_of(config, named[0])
    head = {"architecture": named[0], "labels": labels, "config": settings}
    return {key: value for key, value in head.items() if value}


def renames_labels(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> bool:
    """Whether two heads, as `read_head` gives them, are one classifier whose outputs are called otherwise."""
    same = base.get("architecture") == tuned.get("architecture")
    return same and "Classification" in tuned.get("architecture", "") and base.get("labels") != tuned.get("labels")


def head_of_patches(patches: Sequence[Patch], architecture: str | None) -> Mapping[str, Any] | None:
    """The task of the first patch that brings a head, or other labels to entries of the one that is there.

    Args:
        patches: in the order in which they win.
        architecture: the base's.
    """
    for patch in patches:
        task = patch.provenance.task
        head = task.get("head") if task else None
        named = head.get("architecture") if isinstance(head, Mapping) else None
        touched = named == architecture and any(kind_of(name) == "heads" for name in patch.mask)
        if isinstance(named, str) and named.isidentifier() and (patch.dense or touched):
            return task
    return None


def write_head(task: Mapping[str, Any], folder: Path) -> bool:
    """Tell a folder's config.json of a task's head; whether there is a config.

    What a stranger's patch says of its task may be anything: only what a head is known by is taken over.
    """
    config, head = read_model_config(folder), task["head"]
    if not config:
        return False
    config["architectures"] = [head["architecture"]]
    labels = head.get("labels") or task.get("labels")
    if isinstance(labels, (list, tuple)) and labels:
        config["id2label"] = {str(position): str(label) for position, label in enumerate(labels)}
        config["label2id"] = {str(label): position for position, label in enumerate(labels)}
        for count in ("num_labels", "_num_labels"):  # of the base's labels
            config.pop(count, None)
    settings = head.get("config")
    if isinstance(settings, Mapping):
        config |= {key: settings[key] for key in _KEYS if key in settings and _is_plain(settings[key])}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return True


def _labels_of(config: Mapping[str, Any], architecture: str) -> list[str]:
    """As transformers reads them: it writes neither names nor number of two labels without names."""
    named = config.get("id2label")
    try:
        found = {int(position): str(label) for position, label in named.items()} if isinstance(named, dict) else {}
    except ValueError:
        found = {}
    if found and sorted(found) == list(range(len(found))):
        return [found[position] for position in range(len(found))]
    count = config.get("num_labels", config.get("_num_labels", 2))
    known = "Classification" in architecture and isinstance(count, int) and 0 < count < 2**20
    return [f"LABEL_{position}" for position in range(count)] if known else []


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))
