"""Sound recipes of the three sorts, as small as they can be."""

from __future__ import annotations

from typing import Any

_SMALL = {"train": {"epochs": 1, "steps": 2, "batch_size": 4}, "evaluate": {"batch_size": 8, "limit": 4}, "seeds": [0]}


def recipe_of(sort: str, base: str) -> dict[str, Any]:
    """What a recipe file holds.

    Args:
        sort: "single", "multitask" or "forgetting".
        base: its model.
    """
    localize = {"method": "magnitude", "budget": 20, "scope": "layers", "points": 1}
    content: dict[str, Any] = {"kind": sort, "name": sort, "base": base, **_SMALL}
    if sort == "single":
        more = {"analysis": {"controls": ["temperature"], "diagnosis": False}, "hardware": "none", "minutes": 0.1}
        expect = {"graft.accuracy": {"value": 0.5, "tolerance": 1.0}}
        return content | {"task": "task.yaml", "localize": localize, "controls": ["random"], "expect": expect, **more}
    if sort == "multitask":
        return content | {
            "tasks": ["task.yaml", "second.yaml"],
            "shots": 2,
            "localize": localize,
            "sequences": {"sequential": {"train": {"lr": 0.1}}, "replay": {"replay": 1}},
            "fusions": {
                "mean": {"fuse": {"method": "mean"}},
                "TIES": {"fuse": {"method": "ties"}, "scales": [1.0, 2.0]},
            },
            "unions": {"union": {"density": 1e-3}},
            "mixes": {"joint": {"start": "base"}},
        }
    return content | {
        "general": ["second.yaml"],
        "domains": [{"task": "task.yaml", "shots": 2, "limit": 4}],
        "methods": {
            "full": {"grid": {"train.lr": [1e-4, 3e-4]}},
            "core": {"protect": {"by": "random", "scope": "layers", "share": 0.5}},
            "L2": {"regularize": {"importance": "uniform", "layers": "none", "step": "proximal", "strength": 0.1}},
        },
    }
