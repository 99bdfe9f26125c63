"""The state of a run that is not finished: what was begun, and the metrics of each seed that is done.

It lies in a folder of its own inside the run's, and goes once the results are written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from graft.errors import DataError, OutputError
from graft.files.claims import claim_output
from graft.files.location import local_paths
from graft.files.outputs import new_file, new_folder
from graft.results.fields import from_node, to_json
from graft.results.json_node import Node
from graft.results.layout import RESULTS, STATE
from graft.tasks.task import Task
from graft.train.content import Content, describe_differences

MARK = "recipe.json"  # what is being run
T = TypeVar("T")


def claim_run(out: Path, recipe: Mapping[str, Any], content: Content, force: bool, inputs: Sequence[Path] = ()) -> None:
    """Make the folder of a run, or take up one that an earlier try at the same left unfinished.

    Args:
        out: the folder.
        recipe: as plain values, for people.
        content: what the metrics depend on (`graft.recipes.content`); a run of another is not taken up.
        force: begin anew, whatever the folder holds.
        inputs: what the run reads, which no output may replace.

    Raises:
        OutputError: the folder holds something else, or a run of another content, which is named; or it is no output,
            whatever `force` says.
    """
    begun = _read_mapping(out / STATE / MARK)
    if begun is not None and "recipe" in begun and not (out / RESULTS).exists() and not force:
        differing = describe_differences(begun.get("content"), content)
        if differing is None:
            return
        raise OutputError(
            f"{out} holds an unfinished run of other content: {differing}; pass --force to begin anew, or choose "
            "another folder"
        )
    with new_folder(claim_output(out, is_folder=True, force=force, inputs=inputs)) as folder:
        (folder / STATE).mkdir()
        mark = {"recipe": recipe, "content": content}
        (folder / STATE / MARK).write_text(json.dumps(mark, indent=2), encoding="utf-8")


def inputs_of(recipe: Path, base: str, files: Iterable[str], tasks: Iterable[Task]) -> list[Path]:
    """Return what a run reads: its recipe, base and TASK files, and their data."""
    read = [recipe, *local_paths(base), *(recipe.parent / file for file in files)]
    return [*read, *(file for task in tasks for file in task.files)]


def find_or_read(file: Path, kind: Any, find: Callable[[], T]) -> T:
    """Return what a file holds where it can be read; else find it and write the file.

    Args:
        file: JSON.
        kind: the annotation that the file is read by (`graft.results.fields`).
        find: what finds it.
    """
    read: T | None = read_done(file, kind)
    if read is not None:
        return read
    result = find()
    with new_file(file, force=True) as temporary:
        temporary.write_text(json.dumps(to_json(result), indent=1), encoding="utf-8")
    return result


def read_done(file: Path, kind: Any) -> Any:
    """Return what a file holds, as `find_or_read`; None where there is none, or one cut short or of another version."""
    if not file.is_file():
        return None
    try:
        return from_node(kind, Node.load(file))
    except DataError:
        return None


def drop_state(out: Path) -> None:
    """Remove the state of a run that is finished."""
    shutil.rmtree(out / STATE, ignore_errors=True)


def _read_mapping(file: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file; None where there is none."""
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None
