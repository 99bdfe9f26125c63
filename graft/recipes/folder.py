"""The folder of a run: taken up where it was broken off, seed by seed, and finished with its results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft.errors import OutputError
from graft.files.claims import claim_output
from graft.files.location import places_of
from graft.files.outputs import new_file, new_folder
from graft.recipes.spec import Expectation
from graft.tasks.task import Task
from graft.train.content import Content, tell_differences

MARK = "recipe.json"  # what is being run, from the start; results.json comes at the end
RESULTS = "results.json"


@dataclass(frozen=True)
class RunResult:
    """A finished recipe.

    Attributes:
        results: everything that results.json holds.
        table: the tables as text.
        files: what was written, in the order in which to look at it.
        missed: expectations that were not met, each as a sentence.
    """

    results: Mapping[str, Any]
    table: str
    files: tuple[Path, ...]
    missed: tuple[str, ...]


def claim_folder(
    out: Path, recipe: Mapping[str, Any], content: Content, force: bool, inputs: Sequence[Path] = ()
) -> None:
    """Make the folder, or take up one that an earlier try at the same left unfinished.

    Args:
        out: the folder.
        recipe: as plain values, for people.
        content: what the figures depend on (`graft.recipes.content`); a run of another is not taken up.
        force: begin anew, whatever the folder holds.
        inputs: what the run reads, which no output may replace.

    Raises:
        OutputError: the folder holds something else, or a run of another content, which is named; or it is no output,
            whatever `force` says.
    """
    begun = _read_mapping(out / MARK)
    if begun is not None and "recipe" in begun and not (out / RESULTS).exists():
        differing = tell_differences(begun.get("content"), content)
        if differing is None:
            return
        if not force:
            raise OutputError(
                f"{out} holds an unfinished run of other content: {differing}; pass --force to begin anew, or choose "
                "another folder"
            )
    with new_folder(claim_output(out, is_folder=True, force=force, inputs=inputs)) as folder:
        mark = {"recipe": recipe, "content": content}
        (folder / MARK).write_text(json.dumps(mark, indent=2), encoding="utf-8")


def inputs_of(recipe: Path, base: str, files: Iterable[str], tasks: Iterable[Task]) -> list[Path]:
    """What a run reads: its recipe, base and TASK files, and their data."""
    read = [recipe, *places_of(base), *(recipe.parent / file for file in files)]
    return [*read, *(file for task in tasks for file in task.files)]


def run_or_read(folder: Path, run: Callable[[Path], Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of a seed from its folder, where it was finished before; else run it there."""
    return find_or_read(folder / "seed.json", lambda: run(folder))


def find_or_read(file: Path, find: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Figures from a file, where they were found before and can be read; else find them and write it."""
    read = _read_mapping(file)
    if read is None:
        text = json.dumps(find(), indent=1)
        with new_file(file, force=True) as temporary:
            temporary.write_text(text, encoding="utf-8")
        read = json.loads(text)
        assert isinstance(read, dict)
    return read


def _read_mapping(file: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is none."""
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None


def write_results(out: Path, table: str, results: Mapping[str, Any]) -> list[Path]:
    """The table and, last of all, the results: with them the run is finished."""
    texts = {"table.md": table + "\n", RESULTS: json.dumps(results, indent=1)}
    for name, text in texts.items():
        with new_file(out / name, force=True) as file:
            file.write_text(text, encoding="utf-8")
    return [out / name for name in texts]


def find_missed(
    expect: Mapping[str, Expectation], summary: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]
) -> tuple[str, ...]:
    """Expectations that were not met, each as a sentence.

    Args:
        expect: "MODEL.FIGURE" -> value and tolerance.
        summary: model -> figure -> its mean and more.
        names: what a model is called in `expect` -> in `summary`, where that differs.
    """
    missed = []
    for key, expected in expect.items():
        model, _, metric = key.partition(".")
        found = summary.get(names.get(model, model), {}).get(metric)
        if found is None:
            missed.append(f"{key}: no such figure")
        elif abs(found["mean"] - expected.value) > expected.tolerance:
            missed.append(f"{key} is {found['mean']:.3f}, expected {expected.value:g} ± {expected.tolerance:g}")
    return tuple(missed)
