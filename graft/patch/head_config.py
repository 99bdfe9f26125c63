"""Heads as a model's config.json describes them: the class that it is loaded as, and the names of the outputs.

A patch that brings a head carries this in its task, under "head"; it is written into a merged folder's config.json, so
that transformers loads the model with that head.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graft.files.model_config import read_model_config
from graft.patch.skill_patch import Patch
from graft.patch.torn_tensors import Touched, settle_torn
from graft.tensors.scope import kind_of

# further keys that a head's outputs depend on: where it pools, and by which token it finds the end
_KEYS: tuple[str, ...] = ("pad_token_id", "problem_type", "classifier_pooling", "classifier_activation")
_KEYS += ("classifier_bias", "norm_bias", "pooler_act", "summary_type", "summary_use_proj", "summary_activation")
_KEYS += ("summary_proj_to_labels",)


def read_head(folder: Path) -> dict[str, Any]:
    """Read a model folder's head: architecture, labels in the order of the outputs, settings; {} if unknown."""
    config = read_model_config(folder)
    architectures = config.get("architectures")
    if not (isinstance(architectures, list) and architectures and isinstance(architectures[0], str)):
        return {}
    settings = {key: config[key] for key in _KEYS if key in config and _is_plain(config[key])}
    labels = _labels_of(config, architectures[0])
    head = {"architecture": architectures[0], "labels": labels, "config": settings}
    return {key: value for key, value in head.items() if value}


def renames_labels(base: Mapping[str, Any], tuned: Mapping[str, Any]) -> bool:
    """Return whether two heads, as `read_head` gives them, are one classifier with other names for its outputs."""
    same = base.get("architecture") == tuned.get("architecture")
    return same and "Classification" in tuned.get("architecture", "") and base.get("labels") != tuned.get("labels")


def head_of_patches(patches: Sequence[Patch], architecture: str | None) -> Mapping[str, Any] | None:
    """Return the task of the first patch that brings a head, or entries of the base's head; None where none does.

    Args:
        patches: in the order in which they win.
        architecture: the base's.
    """
    left = settle_torn([Touched.of(patch.mask, patch.dense, patch.provenance.grown) for patch in patches], "first")
    for patch, elsewhere in zip(patches, left, strict=True):
        task = patch.provenance.task
        head = task.get("head") if task else None
        declared = head.get("architecture") if isinstance(head, Mapping) else None
        touched = declared == architecture and any(kind_of(name) == "heads" for name in set(patch.mask) - elsewhere)
        if isinstance(declared, str) and declared.isidentifier() and (patch.dense.keys() - elsewhere or touched):
            return task
    return None


def head_settings(task: Mapping[str, Any] | None) -> tuple[str, list[str], dict[str, Any]]:
    """Return architecture, labels and settings of a recorded task's head: "", [] and {} for what it does not say.

    A stranger's patch may say anything of its task: only the keys that describe a head are taken over.
    """
    head = (task or {}).get("head")
    head = head if isinstance(head, Mapping) else {}
    labels = head.get("labels") or (task or {}).get("labels")
    settings = head.get("config")
    settings = settings if isinstance(settings, Mapping) else {}
    return (
        str(head.get("architecture") or ""),
        [str(label) for label in labels] if isinstance(labels, (list, tuple)) else [],
        {key: settings[key] for key in _KEYS if key in settings and _is_plain(settings[key])},
    )


def write_head(task: Mapping[str, Any], folder: Path) -> bool:
    """Write a task's head into a folder's config.json; return whether there is one."""
    config, (architecture, labels, settings) = read_model_config(folder), head_settings(task)
    if not config:
        return False
    config["architectures"] = [architecture]
    if labels:
        config["id2label"] = {str(position): label for position, label in enumerate(labels)}
        config["label2id"] = {label: position for position, label in enumerate(labels)}
        for count in ("num_labels", "_num_labels"):  # of the base's labels
            config.pop(count, None)
    config |= settings
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return True


def _labels_of(config: Mapping[str, Any], architecture: str) -> list[str]:
    """Read labels as transformers does, which writes neither names nor number of two labels without names."""
    id2label = config.get("id2label")
    try:
        by_position = (
            {int(position): str(label) for position, label in id2label.items()} if isinstance(id2label, dict) else {}
        )
    except ValueError:
        by_position = {}
    if by_position and sorted(by_position) == list(range(len(by_position))):
        return [by_position[position] for position in range(len(by_position))]
    count = config.get("num_labels", config.get("_num_labels", 2))
    known = "Classification" in architecture and isinstance(count, int) and 0 < count < 2**20
    return [f"LABEL_{position}" for position in range(count)] if known else []


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))
