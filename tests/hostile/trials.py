"""One trial: inputs in a folder of its own and a command line over them, all from a seed and a number."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.hostile.command_lines import (
    OTHER,
    Inputs,
    hostile_options,
    hostile_output,
    of_models,
    of_patches,
    of_task,
)
from tests.hostile.data_files import hostile_data, write_rows
from tests.hostile.model_folders import CONFIG, TOKENIZER, Mutation, spoil_folder
from tests.hostile.recipes import recipe_of
from tests.hostile.shelf import MODELS, SPLITS, task_of
from tests.hostile.values import Draw, Meaning
from tests.hostile.weights import WEIGHTS
from tests.hostile.yaml_files import hostile_yaml, to_text

HEADS = ("similarity", "similarity", "similarity", "template", "classifier", "verbalizer", "choice", "lm")


@dataclass
class Trial:
    """A command line over inputs that lie in a folder.

    Attributes:
        kind: of the inputs.
        line: arguments of `graft`, run in that folder.
        done: names of what was done to the inputs.
        meaning: what that means: "wrong" must be refused, "harmless" must change no number of an answer.
        head: of the task, where there is one.
    """

    kind: str
    line: list[str]
    done: list[str] = field(default_factory=list)
    meaning: Meaning = "harmless"
    head: str | None = None


@dataclass(frozen=True)
class Bench:
    """Where a trial is made.

    Attributes:
        shelf: sound models and patches, which are only read.
        folder: the trial's own, empty at first; the command runs in it.
        draw: of the command and of which inputs.
        spoil: of what is done to them, or None for their sound counterpart.
    """

    shelf: Path
    folder: Path
    draw: Draw
    spoil: Draw | None

    def inputs(self, base: str = "bert", *, own: tuple[str, ...] = ()) -> Inputs:
        """The shelf's models and patches by their paths, or copies here of those named in `own`."""
        names = {"base": base, "tuned": f"{base}-tuned", "other": "other", "skilled": "skilled"}
        files = {name: f"{name}.safetensors" for name in ("skill", "second", "mask", "later")}
        paths = {what: str(self.shelf / name) for what, name in (names | files).items()}
        for what in own:
            source = Path(paths[what])
            paths[what] = source.name if source.is_file() else what
            (shutil.copyfile if source.is_file() else shutil.copytree)(source, self.folder / paths[what])
        return Inputs(task="task.yaml", **paths)

    def write_task(self, head: str, name: str = "task.yaml") -> None:
        """A sound task: its file, and the files of its rows; and `other.yaml`, with the splits in another order."""
        content, rows = task_of(head)
        (self.folder / name).write_bytes(to_text(content))
        turned = dict(zip(SPLITS, (f"{split}.jsonl" for split in SPLITS[::-1]), strict=True))
        (self.folder / OTHER).write_bytes(to_text(content | {"name": "other", "data": turned}))
        for split, held in rows.items():
            (self.folder / f"{split}.jsonl").write_bytes(write_rows(held, "jsonl"))


def make_trial(
    shelf: Path, folder: Path, seed: int, number: int, *, kind: str | None = None, sound: bool = False
) -> Trial:
    """Write the inputs of a trial, which depend on the seed and its number alone.

    Args:
        shelf: of `build_shelf`.
        folder: an empty one.
        seed, number: of the draws.
        kind: one of `KINDS`; drawn by their weights where absent.
        sound: make the counterpart to which nothing was done.
    """
    draw = random.Random(f"{seed}/{number}")
    drawn = draw.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
    kind = kind or drawn
    bench = Bench(shelf, folder, draw, None if sound else random.Random(f"{seed}/{number}/spoil"))
    trial = KINDS[kind][1](bench)
    trial.kind = kind
    return trial


def _sound(bench: Bench) -> Trial:
    """Nothing is wrong: it must be answered, and the same however it is asked."""
    head = bench.draw.choice(HEADS)
    bench.write_task(head)
    inputs = bench.inputs(bench.draw.choice(MODELS[head]))
    if bench.draw.random() < 0.2:
        return Trial("", of_models(bench.draw, bench.inputs()))
    return Trial("", ["evaluate", inputs.base, "--task", inputs.task], head=head)


def _task(bench: Bench) -> Trial:
    head = bench.draw.choice(HEADS)
    bench.write_task(head)
    trial = Trial("", of_task(bench.draw, bench.inputs(bench.draw.choice(MODELS[head]))), head=head)
    if bench.spoil:
        huge = trial.line[0] == "evaluate" or "--plan" in trial.line  # no training that would rightly never end
        data, trial.done, trial.meaning = hostile_yaml(bench.spoil, task_of(head)[0], huge=huge)
        (bench.folder / "task.yaml").write_bytes(data)
    return trial


def _recipe(bench: Bench) -> Trial:
    """Most name a base that is not there, so that what is refused is refused soon, and nothing takes seconds."""
    bench.write_task("similarity")
    (bench.folder / "second.yaml").write_bytes(to_text(task_of("template")[0] | {"name": "second"}))
    sort = bench.draw.choice(("single", "single", "multitask", "forgetting"))
    there = bench.draw.random() < 0.03
    content = recipe_of(sort, str(bench.shelf / "bert") if there else "./gone")
    trial = Trial("", ["run", "recipe.yaml", "-o", "out"])
    data = to_text(content)
    if bench.spoil:
        data, trial.done, trial.meaning = hostile_yaml(bench.spoil, content, huge=not there)
    (bench.folder / "recipe.yaml").write_bytes(data)
    return trial


def _data(bench: Bench) -> Trial:
    head = bench.draw.choice(HEADS)
    bench.write_task(head)
    line = of_task(bench.draw, bench.inputs(bench.draw.choice(MODELS[head])))
    trial = Trial("", line, head=head)
    content, rows = task_of(head)
    of_command = {"evaluate": ("meals", "test", "test"), "explain": ("validation",), "serve": ("validation",)}
    split = bench.draw.choice(of_command.get(line[0], ("train",)))
    if bench.spoil:
        path, trial.done, trial.meaning = hostile_data(bench.spoil, bench.folder / f"{split}.jsonl", rows[split])
        looked_at = head != "lm" and "--plan" not in line and split in SPLITS
        if line[0] == "refit" or "nll" in line:  # to the tuned model's outputs; from validation alone: no label is read
            looked_at = False
        if trial.meaning == "wrong" and not looked_at:
            trial.meaning = "hostile"
        if split == "meals":
            meals = content["ood"]["meals"]
            content["ood"] = {"meals": path.name if isinstance(meals, str) else meals | {"path": path.name}}
        else:
            content["data"][split] = path.name
        (bench.folder / "task.yaml").write_bytes(to_text(content))
    return trial


def _model(bench: Bench, mutations: dict[str, Mutation], *, may_be_pair: bool = True) -> Trial:
    """A command over a pair of models, one of which is spoilt, or over a head's model."""
    pair = may_be_pair and bench.draw.random() < 0.5
    head = "similarity" if pair else bench.draw.choice(HEADS)
    base = "bert" if pair else bench.draw.choice(MODELS[head])
    which = "tuned" if pair and bench.draw.random() < 0.4 else "base"
    inputs = bench.inputs(base, own=(which,))
    if pair:
        trial = Trial("", of_models(bench.draw, inputs))
    else:
        bench.write_task(head)
        trial = Trial("", of_task(bench.draw, inputs), head=head)
    if bench.spoil:
        trial.done, trial.meaning = spoil_folder(bench.spoil, bench.folder / which, mutations)
    read = {"base": inputs.base, "tuned": inputs.tuned}[which] in trial.line
    if trial.meaning == "wrong" and (not read or (trial.line[0] == "evaluate" and which == "tuned")):
        trial.meaning = "hostile"
    return trial


def _options(bench: Bench) -> Trial:
    bench.write_task("similarity")
    inputs = bench.inputs()
    of = bench.draw.choice((of_task, of_models, of_patches))
    trial = Trial("", of(bench.draw, inputs))
    if bench.spoil:
        trial.line, trial.done, trial.meaning = hostile_options(bench.spoil, trial.line), ["options"], "hostile"
    return trial


def _output(bench: Bench) -> Trial:
    bench.write_task("similarity")
    inputs = bench.inputs(own=("base", "skill"))
    lines = [line for line in (of_models(bench.draw, inputs) for _ in range(9)) if "-o" in line]
    more = [["overlap", inputs.skill, inputs.mask, "-o", "out"], ["report", "gone", "-o", "out"],
            ["train", inputs.base, "--task", inputs.task, "--set", "steps=2", "-o", "out"]]  # fmt: skip
    trial = Trial("", bench.draw.choice([*lines, *more]))
    if bench.spoil:
        trial.line = hostile_output(bench.spoil, trial.line, inputs, bench.folder)
        trial.done, trial.meaning = [f"output {trial.line[trial.line.index('-o') + 1][:30]!r}"], "hostile"
    return trial


KINDS: dict[str, tuple[float, Callable[[Bench], Trial]]] = {
    "sound": (0.03, _sound),
    "TASK": (0.2, _task),
    "recipe": (0.12, _recipe),
    "data": (0.19, _data),
    "config": (0.12, partial(_model, mutations=CONFIG)),
    "weights": (0.14, partial(_model, mutations=WEIGHTS)),
    "tokenizer": (0.06, partial(_model, mutations=TOKENIZER, may_be_pair=False)),
    "options": (0.09, _options),
    "output": (0.05, _output),
}
