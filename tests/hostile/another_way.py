"""The same question asked in another way, and whether the answer is the same."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml
from safetensors import safe_open

from graft.errors import GraftError
from graft.patch.format.reading import load_region
from graft.patch.skill_patch import Patch
from tests.hostile.model_folders import edit
from tests.hostile.trials import Trial
from tests.hostile.values import Draw
from tests.hostile.watching import Finished
from tests.hostile.weights import FILE, INDEX, tensors_of, write_shards

Answer = dict[str, npt.NDArray[np.float64]]
# changes the inputs and gives the new command line; None, with nothing changed, where it does not fit
Way = Callable[[Draw, Trial, Path], list[str] | None]
TOLERANCE = 1e-5
FIGURES = ("n", "n_none", "nll", "brier", "perplexity")  # accuracy leaps where two logits are as good as equal


def answer_of(trial: Trial, finished: Finished, folder: Path) -> Answer:
    """The numbers of an answer: figures, a patch's entries and values, a folder's tensors.

    Raises:
        ValueError: what should be JSON is none.
    """
    line = trial.line
    said = finished.answer() if "--json" in line else {}
    if line[0] == "evaluate":
        sets = {"test": said, **said.get("ood", {})}
        return {
            f"{name} {key}": np.array(held[key], float) for name, held in sets.items() for key in FIGURES if key in held
        }
    word = output_of(line)
    if is_plan(line) or word is None:
        return {key: np.array(value, float) for key, value in said.items() if isinstance(value, (bool, float))}
    return _tensors(folder / word) if (folder / word).is_dir() else _region(folder / word)


def is_plan(line: list[str]) -> bool:
    """Whether a command line asks for a plan alone; as a name of an output it does not."""
    return any(word == "--plan" and before not in ("-o", "--output") for before, word in pairwise(line))


def output_of(line: list[str]) -> str | None:
    """What a command line names as its output, if it names one."""
    places = [place for place, word in enumerate(line[:-1]) if word in ("-o", "--output")]
    return line[places[-1] + 1] if places else None


def _region(path: Path) -> Answer:
    try:
        region, _ = load_region(path)
    except GraftError:  # another tool's format, strengths, a page
        return {}
    mask = region.mask if isinstance(region, Patch) else region
    held = {f"entries of {name}": mask[name].astype(float) for name in mask}
    if isinstance(region, Patch):
        held |= {f"values of {name}": values.double().numpy() for name, values in region.values.items()}
        held |= {f"whole {name}": values.double().numpy() for name, values in region.dense.items()}
    return held


def _tensors(folder: Path) -> Answer:
    held = {}
    for file in sorted(folder.rglob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            held |= {name: tensors.get_tensor(name).double().numpy() for name in tensors.keys()}  # noqa: SIM118
    return held


def difference(one: Mapping[str, Any], two: Mapping[str, Any]) -> str | None:
    """Where two answers differ beyond rounding; None where they do not."""
    if one.keys() != two.keys():
        return f"only one has {sorted(one.keys() ^ two.keys())[0]}"
    for name, value in one.items():
        other = two[name]
        if value.shape != other.shape:
            return f"{name}: {value.shape} and {other.shape}"
        if not np.allclose(value, other, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
            worst = np.unravel_index(np.nanargmax(np.abs(value - other)), value.shape)
            return f"{name}: {value[worst]:.6g} and {other[worst]:.6g}"
    return None


def one_at_a_time(draw: Draw, trial: Trial, folder: Path) -> list[str] | None:
    if trial.line[0] != "evaluate" or "--batch-size" in trial.line:
        return None
    return [*trial.line, "--batch-size", draw.choice(("1", "3"))]


def two_threads(draw: Draw, trial: Trial, folder: Path) -> list[str] | None:
    torch.set_num_threads(2)  # whoever asks sets it back
    return trial.line


def own_models(trial: Trial, folder: Path) -> tuple[list[str], list[Path]]:
    """The command line over copies of those models that do not lie in the folder, and where all of them lie."""
    line, models = [], []
    for argument in trial.line:
        path = folder / argument
        if "\x00" not in argument and len(argument) < 200 and (path / "config.json").is_file():
            if not path.resolve().is_relative_to(folder.resolve()):
                shutil.copytree(path, folder / path.name, dirs_exist_ok=True)
                argument = path.name
            if folder / argument not in models:
                models.append(folder / argument)
        line.append(argument)
    return line, models


def in_shards(draw: Draw, trial: Trial, folder: Path) -> list[str] | None:
    line, models = own_models(trial, folder)
    whole = [model for model in models if (model / FILE).is_file() and not (model / INDEX).exists()]
    for model in whole:
        write_shards(model, tensors_of(model))
    return line if whole else None


def other_dtype_in_config(draw: Draw, trial: Trial, folder: Path) -> list[str] | None:
    """The config names another dtype than that of the files, which says what they hold."""
    line, models = own_models(trial, folder)
    name = draw.choice(("bfloat16", "float16", "float64"))
    for model in models:
        edit(model / "config.json", lambda content: content.update(dtype=name))
    return line if models else None


def padded_on_the_other_side(draw: Draw, trial: Trial, folder: Path) -> list[str] | None:
    if trial.line[0] != "evaluate":
        return None
    line, models = own_models(trial, folder)
    for model in models:

        def turn(content: dict[str, Any]) -> None:
            content["padding_side"] = "right" if content.get("padding_side") == "left" else "left"

        edit(model / "tokenizer_config.json", turn)
    return line if models else None


def task_in(folder: Path) -> dict[str, Any] | None:
    try:
        content = yaml.safe_load((folder / "task.yaml").read_bytes())
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def rows_in(folder: Path, place: Any) -> tuple[Path, list[dict[str, Any]]]:
    """A split's file and its rows, of the jsonl files alone.

    Raises:
        ValueError: it is none.
    """
    path = folder / (place if isinstance(place, str) else place["path"])
    if path.suffix != ".jsonl" or not path.is_file():
        raise ValueError("another form")
    return path, [json.loads(line) for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def labels_in_other_order(draw: Draw, trial: Trial, folder: Path) -> list[str] | None:
    """The list of labels reversed, together with whatever goes by its order; rows spell their labels by name."""
    content = task_in(folder)
    if trial.line[0] != "evaluate" or content is None or "choices" in content or trial.head == "lm":
        return None
    labels, head = content["labels"], content.get("head", {})
    places = [
        *content["data"].values(),
        *(place for place in content.get("ood", {}).values() if isinstance(place, str)),
    ]
    for place in places:
        if not isinstance(place, str) or not all(row["label"] in labels for row in rows_in(folder, place)[1]):
            return None
    if head.get("kind") == "classifier":
        names = json.loads((folder / trial.line[1] / "config.json").read_text()).get("id2label", {})
        if set(names.values()) != set(labels):
            return None
    content["labels"] = labels[::-1]
    for key in ("texts", "words"):
        if key in head:
            head[key] = head[key][::-1]
    (folder / "task.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return trial.line


def rows_in_other_order(draw: Draw, trial: Trial, folder: Path) -> list[str] | None:
    content = task_in(folder)
    if trial.line[0] != "evaluate" or "--limit" in trial.line or content is None:
        return None
    path, rows = rows_in(folder, content["data"]["test"])
    draw.shuffle(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return trial.line


WAYS: dict[str, Way] = {
    "batch size": one_at_a_time,
    "label order": labels_in_other_order,
    "padding side": padded_on_the_other_side,
    "shard layout": in_shards,
    "dtype in the config": other_dtype_in_config,
    "threads": two_threads,
    "order of rows": rows_in_other_order,
}


def ask_otherwise(
    draw: random.Random, trial: Trial, folder: Path, ways: Mapping[str, Way]
) -> tuple[str, list[str]] | None:
    """Change a trial's inputs in one way that fits it.

    Args:
        draw: of the way.
        trial: whose inputs lie in the folder, fresh; they are changed.
        folder: that.
        ways: to choose from.

    Returns:
        The way's name and the command line, None where none fits.
    """
    for name in draw.sample(list(ways), len(ways)):
        try:
            line = ways[name](draw, trial, folder)
        except Exception:  # inputs that are spoilt so that they cannot be changed, or only in part
            return None
        if line is not None:
            return name, line
    return None
