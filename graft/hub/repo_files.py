"""Files beside a patch in its repository: a plot of its layers, and the recipe and calibration of its run."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from graft.errors import DataError, PatchError
from graft.hub.privacy import refuse_private
from graft.patch.mask import Mask
from graft.results.layout import split_patch_path
from graft.results.run import Results, load_results
from graft.specs.reader import load_yaml

PLOT, RELIABILITY = "layers.png", "reliability.png"
RECIPE, RUN = "recipe.yaml", "recipe.json"
NAMES = (PLOT, RELIABILITY, RECIPE, RUN)


@dataclass(frozen=True)
class RepoFiles:
    """Files beside the patch as name -> bytes, and notes on those that are not published."""

    files: dict[str, bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def draw_mask(mask: Mask) -> bytes:
    """Plot the entries of a mask by layer and module; return the PNG."""
    from graft.report.plots.layer_map import plot_layer_map

    with tempfile.TemporaryDirectory() as folder:
        files = plot_layer_map(mask, Path(folder) / "layers", title=f"where the {len(mask):,} entries lie")
        return next(file for file in files if file.name == PLOT).read_bytes()


def read_recipe(path: Path) -> bytes:
    """Read a recipe that the author wants to publish.

    Raises:
        ConfigError: it is not YAML.
        PatchError: it names a place on this machine.
    """
    refuse_private(load_yaml(path), path.name)
    return path.read_bytes()


def find_run_files(patch: Path) -> RepoFiles:
    """Find the files that a finished run of one task left beside its main patch; other patches have none."""
    location = split_patch_path(patch.resolve())
    if location is None:
        return RepoFiles()
    run, name = location
    results = _read_results(run)
    if results is None or name != results.main_method:
        return RepoFiles()
    plot = run / RELIABILITY
    files = {RELIABILITY: plot.read_bytes()} if plot.is_file() else {}
    content = {"recipe": results.recipe}
    try:
        refuse_private(content, RUN)
    except PatchError as error:
        return RepoFiles(files, (f"the run's recipe stays here ({error})",))
    return RepoFiles(files | {RUN: json.dumps(content, indent=2).encode()})


def _read_results(run: Path) -> Results | None:
    try:
        return load_results(run)
    except DataError:
        return None
