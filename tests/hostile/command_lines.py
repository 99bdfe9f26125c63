"""Command lines over given inputs: sound ones, and options and outputs that nobody meant."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tests.hostile.values import Draw

OUT = "out"
OTHER = "other.yaml"  # a second TASK file in the working folder


@dataclass(frozen=True)
class Inputs:
    """What a command line names: paths of models and patches, and of a TASK file in the working folder.

    `skilled` is the BERT with `skill` in it, and `later` a patch that was cut from that.
    """

    base: str
    tuned: str
    other: str
    task: str
    skill: str
    second: str
    mask: str
    skilled: str
    later: str


def of_task(draw: Draw, i: Inputs, *, may_train: bool = True) -> list[str]:
    """A command that reads a model and a task; mostly those that end soon."""
    asked = ["--task", i.task]
    metric = draw.choice(("accuracy", "nll"))
    back = [i.base, i.tuned, "--keep", OTHER, "--restore", i.task, "--restore-metric", metric]
    lines = [
        *[["evaluate", i.base, *asked]] * 7,
        ["evaluate", i.base, *asked, "--tuned", i.tuned],
        ["explain", i.skill, "--base", i.base, *asked],
        *[["train", i.base, *asked, "--plan"]] * 2,
        *[["localize", i.base, i.tuned, *asked, "--budget", "20", "--plan"]] * 2,
        ["refit", i.base, i.tuned, *asked, "--budget", "20", "--plan"],
        ["rollback", *back, "--plan"],
        ["serve", i.base, "--skill", f"moods={i.skill}", "--task", f"moods={i.task}", "--calibrate", "--port", "0"],
    ]
    if may_train:
        lines.append(["train", i.base, *asked, "--set", "steps=2", "--batch-size", "4", "-o", OUT])
        lines.append(["importance", i.base, *asked, "--micro-batch", "8", "-o", OUT])
        lines.append(["localize", i.base, i.tuned, *asked, "--budget", "20", "--points", "1", "-o", OUT])
        general = ["--method", "mathneuro", "--general", OTHER]
        lines.append(["localize", i.base, i.tuned, *asked, "--budget", "20", *general, "-o", OUT])
        lines.append(["refit", i.base, i.tuned, *asked, "--budget", "20", "--epochs", "1", "-o", OUT])
        lines.append(["refit", i.base, i.tuned, i.skill, *asked, "--epochs", "1", "-o", OUT])
        lines.append(["rollback", *back, "--budget", "20", "-o", OUT])
        lines.append(["rollback", *back, "--curve"])
    return draw.choice(lines)


def of_models(draw: Draw, i: Inputs) -> list[str]:
    """A command that reads models and patches, but no task."""
    return draw.choice(
        [
            ["diff", i.base, i.tuned, "-o", OUT],
            ["diff", i.base, i.tuned, "--budget", "30", "-o", OUT],
            ["diff", i.base, i.tuned],
            *[["diff", i.base, i.tuned, "-o", OUT, "--plan"]] * 2,
            *[["apply", i.base, i.skill, "-o", OUT]] * 3,
            ["apply", i.base, i.skill, i.second, "--on-overlap", "mean", "-o", OUT],
            ["apply", i.base, i.skill, "-o", OUT, "--plan"],
            ["verify", i.skill, "--base", i.base],
            ["verify", i.skill, "--base", i.base, "--full"],
            ["verify", i.skill, "--base", i.base, "--result"],
            ["verify", i.skill, "--base", i.base, "--result", "--against", i.skilled],
            ["explain", draw.choice((i.skill, i.mask)), "--base", i.base],
            ["serve", i.base, "--skill", f"moods={i.skill}", "--skill", f"other={i.second}", "--port", "0"],
            ["fuse", i.base, i.tuned, i.other, "--method", draw.choice(("mean", "ties", "slerp", "cpi")), "-o", OUT],
            ["importance", i.tuned, "--base", i.base, "--method", "movement", "-o", OUT],
            ["exclude", i.tuned, "--without", i.skill, "--base", i.base, "-o", OUT],
            ["compose", i.skill, i.second, "--base", i.base, "--on-overlap", "sign", "-o", OUT],
            ["compose", i.skill, i.later, "--chain", "--base", i.base, "-o", OUT],
            ["export", i.skill, "--to", "lora", "--skip-unsupported", "--base", i.base, "-o", OUT],
            [
                "export",
                i.skill,
                "--to",
                draw.choice(("vllm", "task-vector", "state-dict")),
                "--base",
                i.base,
                "-o",
                OUT,
            ],
            ["import", i.tuned, "--from", "dense", "--base", i.base, "--budget", "30", "-o", OUT],
        ]
    )


def of_patches(draw: Draw, i: Inputs) -> list[str]:
    """A command that reads patches alone."""
    return draw.choice(
        [
            ["inspect", i.skill],
            ["overlap", i.skill, i.second, i.mask],
            ["exclude", i.skill, "--without", i.second, "-o", OUT],
            ["compose", i.skill, i.skill, "-o", OUT],
            ["compose", i.skill, i.later, "--chain", "-o", OUT],
            ["push", i.skill, "me/skill", "--base-model", "org/base", "--dry-run"],
        ]
    )


NUMBERS = ("0", "-1", "1", "2", "0.5", "1e-4", "1e999", "nan", "inf", "-inf", "1e-400", "9" * 20, "x", "", "0x10",
           "1_000", "½", "٣", " 1", "1 ", "True", str(2**63), str(2**31), "1,5")  # fmt: skip
SCOPES = ("layers", "", "(", "layers+", "+", "all", "x9", ".*", "(a+)+$", "layers+layers", "heads", "\x00", "[",
          "(?i)L", "layers + embeddings", "\\", "a" * 2000, "(?P<x>.)(?P=x)", "^$", "*")  # fmt: skip
DEVICES = ("cuda", "cuda:0", "cuda:99", "mps", "meta", "cpu:1", "cpu:-1", "", "abacus", "auto-map", "xla", "CPU", "0",
           "cpu")  # fmt: skip
DTYPES = ("float16", "bfloat16", "float64", "int8", "", "bool", "float32", "fp16", "torch.float32", "AUTO", "complex64")
REFERENCES = ("", ".", "..", "/", "~", "~nobody", "gone", "./gone", "org/name", "org/name@main", "a/b/c", "@",
              "org/name@", "/dev/null", "/dev/zero", "\x00", "x" * 300, "http://x/y", " ", "-", "task.yaml", "*",
              "embedded:x", "/proc/self/mem", "org name/x", "ä/ö", "..\\x", "skill.safetensors/")  # fmt: skip
ASSIGNMENTS = ("x", "=", "=1", "lr=", "lr=nan", "lr=[", "lr=&a [*a]", "learn.epochs=0", "a.b.c=1", "lr.x=1", "..=1",
               "seed=x", "paper.steps=-1", "points=0", "budget=1e3", "density=2", "scope=(", "steps=0", "learn=5",
               "steps=!!python/name:os.x", "epochs=yes", "\x00=1", "lr={{{{", "lr=2024-13-45",
               "batch_size=0")  # fmt: skip
OPTIONS = (
    dict.fromkeys(("--seed", "--density", "--budget", "--batch-size", "--limit", "--micro-batch", "--lr", "--epochs",
                   "--points", "--top", "--scale", "--core", "--threshold", "--max-rank", "--rounds", "--labels",
                   "--lines", "--bytes", "--share", "--tolerance", "--port", "--batch-rows", "--waiting",
                   "--timeout"), NUMBERS)
    | dict.fromkeys(("--patch", "--tuned", "--protect", "--unprotect", "--base", "--record", "--without", "--task",
                     "--importance", "--against", "--general", "--texts", "--keep", "--restore",
                     "--token-env"), REFERENCES)
    | dict.fromkeys(("--skill", "--reference"), (*REFERENCES, *(f"moods={name}" for name in REFERENCES)))
    | {
        "--scope": SCOPES, "--device": DEVICES, "--dtype": DTYPES, "--set": ASSIGNMENTS,
        "--method": ("magnitude", "regularize", "core-freeze", "taylor", "", "TIES", "ties", "path", "fisher",
                     "mathneuro"),
        "--support": ("gradient", "magnitude", "random", "", "x"), "--select": ("nll", "kl", "x"),
        "--structure": ("entries", "columns", "rows", "rank", "x"), "--restore-metric": ("accuracy", "nll", "x"),
        "--host": ("127.0.0.1", "::1", "", "256.1.1.1", "1.2.3.4", "\x00", "x" * 300, "::::"),
        "--optimizer": ("adamw", "SGD", "", "lion"), "--on-overlap": ("error", "first", "slerp", "", "median"),
        "--allocation": ("global", "per-layer", "x"), "--parallel": ("ddp", "fsdp", "x"), "--rest": ("lerp", "x"),
        "--from": ("lora", "shira", "composable-sft", "dense", "x"), "--to": ("shira", "vllm", "lora", "x"),
        "--angle": ("model", "x"),
    }
)  # fmt: skip
FLAGS = ("--plan", "--soft", "--localizable", "--record", "--resume", "--with-base-values", "--exact-scores",
         "--strict", "--gradient-checkpointing", "--allow-mismatch", "--by-folder", "--full", "--curve", "--plain",
         "--help", "--no-such-option", "--skip-unsupported", "--version", "-h", "--force", "--", "--chain", "--result",
         "--refit", "--calibrate", "--router", "--exact")  # fmt: skip
OF_COMMAND = {  # the options that each command knows: drawn far more often than those it does not
    "evaluate": ("--patch", "--tuned", "--limit", "--seed", "--batch-size", "--device", "--dtype", "--task"),
    "train": ("--lr", "--epochs", "--optimizer", "--batch-size", "--scope", "--density", "--protect", "--unprotect",
              "--method", "--importance", "--set", "--seed", "--device", "--dtype", "--parallel", "--task"),
    "localize": ("--density", "--budget", "--method", "--scope", "--allocation", "--points", "--seed", "--batch-size",
                 "--micro-batch", "--set", "--device", "--dtype", "--parallel", "--task", "--general", "--structure",
                 "--lines", "--bytes", "--max-rank"),
    "explain": ("--base", "--task", "--limit", "--batch-size", "--device", "--dtype"),
    "refit": ("--task", "--texts", "--density", "--budget", "--support", "--structure", "--lines", "--bytes",
              "--max-rank", "--scope", "--labels", "--lr", "--epochs", "--batch-size", "--rounds", "--select", "--seed",
              "--set", "--device", "--dtype"),
    "rollback": ("--keep", "--restore", "--restore-metric", "--share", "--tolerance", "--density", "--budget",
                 "--method", "--scope", "--seed", "--batch-size", "--set", "--device", "--dtype"),
    "serve": ("--skill", "--task", "--reference", "--host", "--port", "--token-env", "--on-overlap", "--batch-rows",
              "--waiting", "--timeout", "--device", "--dtype"),
    "diff": ("--density", "--budget", "--scope"),
    "apply": ("--on-overlap",),
    "verify": ("--base", "--against", "--on-overlap"),
    "fuse": ("--method", "--scale", "--density", "--core", "--threshold", "--rest", "--angle"),
    "importance": ("--method", "--top", "--base", "--record", "--micro-batch", "--scope", "--seed", "--device",
                   "--dtype"),
    "exclude": ("--without", "--base"),
    "compose": ("--on-overlap", "--base"),
    "export": ("--to", "--base", "--max-rank"),
    "import": ("--from", "--base", "--density", "--budget"),
    "overlap": ("--threshold",),
}  # fmt: skip
ENDLESS = {"--epochs", "--points", "--rounds"}  # with a huge value they would rightly take forever, unless only planned


def hostile_options(draw: Draw, line: list[str]) -> list[str]:
    """A command line with one to three options changed or added, or its arguments replaced, dropped, doubled."""
    line = list(line)
    for _ in range(draw.choice((1, 1, 2, 3))):
        kind = draw.random()
        if kind < 0.7:
            known = OF_COMMAND.get(line[0], ()) if draw.random() < 0.9 else tuple(OPTIONS)
            option = draw.choice(known or tuple(OPTIONS))
            line += [option, draw.choice(OPTIONS[option])]
            if option in ENDLESS and "-o" in line:
                line.append("--plan")
        elif kind < 0.82:
            line.append(draw.choice(FLAGS))
        elif len(line) > 1:
            place = draw.randrange(1, len(line))
            replaced = [draw.choice(REFERENCES)]
            line[place : place + 1] = draw.choice((replaced, replaced, [], [line[place]] * 2))
    return line


def hostile_output(draw: Draw, line: list[str], inputs: Inputs, folder: Path) -> list[str]:
    """A command line whose output stands there already, is an input, cannot be made, or has an odd name."""
    (folder / "file").write_text("mine")
    (folder / "full").mkdir()
    (folder / "full" / "mine").write_text("mine")
    (folder / "empty").mkdir()
    (folder / "dangling").symlink_to("nowhere/at/all")
    (folder / "to file").symlink_to("file")
    (folder / "to folder").symlink_to("full")
    os.mkfifo(folder / "fifo")
    names = ("file", "full", "empty", "dangling", "to file", "to folder", "fifo", ".", "..", "", "/", "/dev/null",
             "/dev/full", "file/below", "fifo/below", "dangling/below", "x" * 255, "x" * 256, "ä" * 127, "new/",
             "a/b/c/d", "two\nlines", "\x00", "-", "/proc/x", "~nobody/x", "./new", "full/../new", " ", ".graft-x",
             "../above", inputs.task, inputs.base, inputs.skill, f"{inputs.base}/below", "empty/", "full/", "data",
             f"{inputs.base}/model.safetensors", "/sys/x", ".hidden", "%s", "\udcff", "~",
             "out.safetensors")  # fmt: skip
    forced = draw.random() < 0.3
    name = draw.choice([name for name in names if not (forced and may_be_lost(name, folder))])
    place = line.index("-o") if "-o" in line else len(line)
    line = [*line[:place], "-o", name, *line[place + 2 :]]
    return [*line, "--force"] if forced else line


def may_be_lost(name: str, folder: Path) -> bool:
    """Whether --force on this name could cost files outside the trial's own folder."""
    path = Path(name).expanduser() if not name.startswith("~n") else Path(name)
    return "\x00" in name or not (folder / path).resolve().is_relative_to(folder.resolve())
