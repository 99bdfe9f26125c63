"""Finished runs: their results, and what plots and pages ask of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from graft.errors import DataError
from graft.patch.format.reading import load_patch
from graft.patch.skill_patch import Patch
from graft.results.layout import RESULTS, patch_path
from graft.results.models import Model, Role, graft_name
from graft.results.run import Results, load_results
from graft.results.seeds import SingleSeed


@dataclass(frozen=True)
class FinishedRun:
    """A finished run of any kind of recipe.

    Attributes:
        name: of the recipe.
        path: the folder.
        results: everything that it found.
    """

    name: str
    path: Path
    results: Results


@dataclass(frozen=True)
class RunFolder(FinishedRun):
    """A finished run of one task.

    Attributes:
        method: of the main patch.
        main: the model that the run is about, the base with that patch.
        settings: "key" or "block.key" of the recipe -> value as text.
    """

    method: str
    main: str
    settings: Mapping[str, str]

    @property
    def models(self) -> Mapping[str, Model]:
        """Model -> its role and method."""
        return self.results.models

    @property
    def seeds(self) -> tuple[SingleSeed, ...]:
        """The seeds in the order of the file, one or more."""
        return self.results.seeds

    @property
    def k(self) -> float:
        """Entries of the main patch, mean over seeds: a patch of lines or bytes has as many as its own lines have."""
        return fmean(seed.k for seed in self.seeds)

    @property
    def entries(self) -> str:
        """The same as text: "2,271", or, where seeds differ, "2,290 (2,256 to 2,310 by seed)"."""
        least, most = (of(seed.k for seed in self.seeds) for of in (min, max))
        return f"{self.k:,.0f}" + (f" ({least:,} to {most:,} by seed)" if least < most else "")

    @property
    def missed(self) -> tuple[str, ...]:
        """The expectations that were not met, as sentences."""
        return self.results.missed

    def find_model(self, role: Role, method: str | None) -> str:
        """Return the name of a model, "" where the run has none such."""
        return _find_model(self.models, role, method)

    def patch(self) -> Patch | None:
        """Load the main patch of the first seed, None where the folder does not hold it.

        Raises:
            PatchFormatError: the file is not a patch.
        """
        if not re.fullmatch(r"[\w-]+", self.method):  # a stranger's name leads nowhere else
            return None
        file = patch_path(self.path, self.method, self.seeds[0].seed)
        return load_patch(file) if file.is_file() else None


def open_run(path: Path, results: Results) -> FinishedRun:
    """Return the run of a folder whose results are at hand; a `RunFolder` where it is of one task.

    Raises:
        DataError: the results lack what every run of one task has; the line names file and place.
    """
    if results.kind == "single":
        return read_run(path, results)
    return FinishedRun(str(results.recipe["name"]), path, results)


def read_run(path: Path, results: Results | None = None) -> RunFolder:
    """Read a folder that `graft run` wrote.

    Args:
        path: the folder.
        results: what `load_results` gave, where it was asked already.

    Raises:
        DataError: it is no such folder, or its results are broken; the line names file and place.
    """
    results, file = results or load_results(path), path / RESULTS
    if not results.seeds:
        raise DataError(f"{file}: seeds: holds no seed")
    method = results.main_method
    if method is None:
        raise DataError(f"{file}: recipe.localize: the key 'method' is missing")
    main = _find_model(results.models, "graft", method) or graft_name(method)
    for seed in results.seeds:
        for name in ("base", "tuned", main):
            if name not in seed.models:
                raise DataError(f"{file}: seed {seed.seed}: models: holds no {name!r}")
    name, settings = str(results.recipe["name"]), dict(_list_settings(results.recipe))
    return RunFolder(name, path, results, method, main, settings)


def _find_model(models: Mapping[str, Model], role: Role, method: str | None) -> str:
    return next((name for name, model in models.items() if model == Model(role, method)), "")


def _list_settings(block: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for key, value in block.items():
        if isinstance(value, dict):
            yield from _list_settings(value, f"{above}{key}.")
        elif value is not None:
            yield above + key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)
