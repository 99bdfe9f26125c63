"""Files beside a patch in its repository: the plot of where it lies, and the recipe and calibration of its run."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graft.config import load_yaml
from graft.errors import CheckpointError, PatchError
from graft.files.header import parse_json
from graft.hub.privacy import refuse_private
from graft.patch.mask import Mask

PLOT, RELIABILITY = "layers.png", "reliability.png"
RECIPE, RUN = "recipe.yaml", "recipe.json"
NAMES = (PLOT, RELIABILITY, RECIPE, RUN)


@dataclass(frozen=True)
class RepoFiles:
    """Files beside the patch: name -> bytes; and what is to be said of those that stay behind."""

    files: dict[str, bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def draw_mask(mask: Mask) -> bytes:
    """Draw where a mask lies, layer by module; return the PNG."""
    from graft.report.plots.layer_map import plot_layer_map

    with tempfile.TemporaryDirectory() as folder:
        files = plot_layer_map(mask, Path(folder) / "layers", title=f"where the {len(mask):,} entries lie")
        return next(file for file in files if file.name == PLOT).read_bytes()


def read_recipe(path: Path) -> bytes:
    """Read a recipe that the author wants to publish.

    Raises:
        ConfigError: it is no YAML.
        PatchError: it names a place on this machine.
    """
    refuse_private(load_yaml(path), path.name)
    return path.read_bytes()


def find_run_files(patch: Path) -> RepoFiles:
    """Find what `graft run` left beside the main patch of a seed (RUN/seed-N/METHOD.safetensors); nothing elsewhere."""
    run = patch.resolve().parent.parent
    recipe = _read_run(run / RUN) if patch.parent.resolve().name.startswith("seed-") else None
    if recipe is None or patch.stem != _method_of(recipe):
        return RepoFiles()
    plot = run / RELIABILITY
    files = {RELIABILITY: plot.read_bytes()} if plot.is_file() else {}
    try:
        refuse_private(recipe, RUN)
    except PatchError as error:
        return RepoFiles(files, (f"the run's recipe stays here ({error})",))
    return RepoFiles(files | {RUN: (run / RUN).read_bytes()})


def _read_run(path: Path) -> dict[str, Any] | None:
    try:
        return parse_json(path.read_bytes(), path.name)
    except (OSError, CheckpointError):
        return None


def _method_of(run: dict[str, Any]) -> str | None:
    recipe = run.get("recipe")
    localize = recipe.get("localize") if isinstance(recipe, dict) else None
    method = localize.get("method", "attribution") if isinstance(localize, dict) else "attribution"
    return method if isinstance(method, str) else None
