"""Find the few weights that hold a skill, cut them out as a patch, graft them on, and take them off bit for bit.

The public names are loaded on first use, so that `import graft` costs milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from graft.version import __version__ as __version__

if TYPE_CHECKING:
    from graft.compose.chain import chain_patches as chain_patches
    from graft.compose.composition import compose_patches as compose_patches
    from graft.compose.exclusion import exclude_patches as exclude_patches
    from graft.compose.region_overlap import measure_overlap as measure_overlap
    from graft.evaluate.evaluation import evaluate_task as evaluate_task
    from graft.evaluate.report import Report as Report
    from graft.evaluate.rollback import roll_back as roll_back
    from graft.explain.explainer import explain_patch as explain_patch
    from graft.hub.pull import pull_patch as pull_patch
    from graft.hub.push import push_patch as push_patch
    from graft.localize.diff import diff_checkpoints as diff_checkpoints
    from graft.localize.localization import localize_skill as localize_skill
    from graft.mixture.generation.continuous_batch import ContinuousBatch as ContinuousBatch
    from graft.mixture.generation.prefix_cache import PrefixCache as PrefixCache
    from graft.mixture.generation.request import GenerationRequest as GenerationRequest
    from graft.mixture.generation.request import TokenEvent as TokenEvent
    from graft.mixture.mixed_model import MixedModel as MixedModel
    from graft.mixture.mixed_model import serve_patches as serve_patches
    from graft.mixture.routing.learning import learn_reference as learn_reference
    from graft.mixture.routing.learning import learn_task_reference as learn_task_reference
    from graft.mixture.routing.reference import SkillReference as SkillReference
    from graft.mixture.routing.reference_file import load_reference as load_reference
    from graft.mixture.routing.reference_file import save_reference as save_reference
    from graft.mixture.routing.router import Router as Router
    from graft.mixture.routing.text_embedder import TextEmbedder as TextEmbedder
    from graft.patch.format.reading import load_mask as load_mask
    from graft.patch.format.reading import load_patch as load_patch
    from graft.patch.format.writing import save_patch as save_patch
    from graft.patch.grafted import Grafted as Grafted
    from graft.patch.live import PreparedPatch as PreparedPatch
    from graft.patch.live import apply_patch as apply_patch
    from graft.patch.live import prepare_patch as prepare_patch
    from graft.patch.mask import Mask as Mask
    from graft.patch.skill_patch import Patch as Patch
    from graft.refit.refit import refit_skill as refit_skill
    from graft.tasks.task import Task as Task
    from graft.train.fine_tuning import train_task as train_task
    from graft.train.importance.measuring import measure_importance as measure_importance
    from graft.train.protection.callback import ProtectionCallback as ProtectionCallback
    from graft.train.protection.guard import protect as protect

_HOMES = {
    "ContinuousBatch": "graft.mixture.generation.continuous_batch",
    "GenerationRequest": "graft.mixture.generation.request",
    "PrefixCache": "graft.mixture.generation.prefix_cache",
    "PreparedPatch": "graft.patch.live",
    "Grafted": "graft.patch.grafted",
    "Mask": "graft.patch.mask",
    "MixedModel": "graft.mixture.mixed_model",
    "Patch": "graft.patch.skill_patch",
    "ProtectionCallback": "graft.train.protection.callback",
    "Report": "graft.evaluate.report",
    "Router": "graft.mixture.routing.router",
    "SkillReference": "graft.mixture.routing.reference",
    "Task": "graft.tasks.task",
    "TextEmbedder": "graft.mixture.routing.text_embedder",
    "TokenEvent": "graft.mixture.generation.request",
    "apply_patch": "graft.patch.live",
    "chain_patches": "graft.compose.chain",
    "compose_patches": "graft.compose.composition",
    "diff_checkpoints": "graft.localize.diff",
    "exclude_patches": "graft.compose.exclusion",
    "evaluate_task": "graft.evaluate.evaluation",
    "explain_patch": "graft.explain.explainer",
    "learn_reference": "graft.mixture.routing.learning",
    "learn_task_reference": "graft.mixture.routing.learning",
    "prepare_patch": "graft.patch.live",
    "load_mask": "graft.patch.format.reading",
    "load_patch": "graft.patch.format.reading",
    "load_reference": "graft.mixture.routing.reference_file",
    "localize_skill": "graft.localize.localization",
    "measure_importance": "graft.train.importance.measuring",
    "measure_overlap": "graft.compose.region_overlap",
    "protect": "graft.train.protection.guard",
    "pull_patch": "graft.hub.pull",
    "push_patch": "graft.hub.push",
    "refit_skill": "graft.refit.refit",
    "roll_back": "graft.evaluate.rollback",
    "save_patch": "graft.patch.format.writing",
    "save_reference": "graft.mixture.routing.reference_file",
    "serve_patches": "graft.mixture.mixed_model",
    "train_task": "graft.train.fine_tuning",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'graft' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
