"""Do skills' own trained heads route better than a density of the base's states? The domains of CLINC150 again.

    python examples/routing_trained.py DATA recipes/tasks/clinc150.yaml skills 0 1 2

DATA, the texts and the table are those of routing.py. A skill is a training of 0.01 % of the weights, as `graft train`
does it by default, on the domain's texts with its intents as labels; it is kept in the folder `skills`. Its score is
the energy, or the largest probability, of its own head over its own tuned weights: one pass of the model per skill.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from routing import BASE, HELD_OUT, LEARNED, NONE, POOL, draw_texts, format_table, judge, read_rows

from graft.evaluate.detection import DETECTORS
from graft.mixture.routing.learning import find_threshold
from graft.tasks.examples import Example
from graft.tasks.head import Head, open_head
from graft.tasks.task import Task
from graft.train.fine_tuning import train_task


def train_skill(base: str, folder: Path, intents: Mapping[int, str], rows: Mapping[str, Mapping[str, int]]) -> Head:
    """Train a skill on {"train", "validation"}: text -> intent, unless the folder has it, and open it with its head."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, labels in rows.items():
        lines = [json.dumps({"text": text, "label": list(intents).index(label)}) for text, label in labels.items()]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = {"train": "train.jsonl", "validation": "validation.jsonl", "test": "validation.jsonl"}
    head = {"kind": "similarity", "texts": list(intents.values())}
    task = {"name": "skill", "data": data, "labels": [str(label) for label in intents], "head": head, "max_length": 64}
    (folder / "task.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    read = Task.load(folder / "task.yaml")
    if not (folder / "tuned").is_dir():
        train_task(base, read, folder / "tuned")
    return open_head(folder / "tuned", read.spec)


def run_seed(base: str, data: Path, texts: Sequence[str], folder: Path, seed: int) -> dict[str, dict[str, float]]:
    """Train a skill per domain on the texts that a seed draws, and judge its head's scores on test.

    Args:
        base: model.
        data: folder with the rows.
        texts: what each intent is called.
        folder: for the skills.
        seed: of the draw.
    """
    train = read_rows(data / "clinc150/train.jsonl")[:POOL]
    validation = read_rows(data / "clinc150/validation.jsonl")
    labels = {row["text"]: row["label"] for row in (*train, *validation)}
    learned, held_out = draw_texts(train, LEARNED, seed), draw_texts(validation, HELD_OUT, seed)
    tests, novel = read_rows(data / "clinc150/test.jsonl"), read_rows(data / "clinc150_oos/test.jsonl")
    names = sorted(learned)
    owners = torch.tensor([names.index(row["domain"]) for row in tests] + [NONE] * len(novel))
    scores: dict[str, list[torch.Tensor]] = {detector: [] for detector in DETECTORS}
    limits: dict[str, list[float]] = {detector: [] for detector in DETECTORS}
    for name in names:
        intents = {row["label"]: texts[row["label"]] for row in train if row["domain"] == name}
        splits = {"train": learned[name], "validation": held_out[name]}
        rows = {split: {text: labels[text] for text in own} for split, own in splits.items()}
        head = train_skill(base, folder / f"{name}-{seed}", dict(sorted(intents.items())), rows)
        found, own = (predict(head, part) for part in ([row["text"] for row in (*tests, *novel)], held_out[name]))
        for detector, score in DETECTORS.items():
            scores[detector].append(torch.from_numpy(score(found)))
            limits[detector].append(find_threshold(torch.from_numpy(score(own))))
    return {
        f"own trained head, {detector}": judge(
            torch.stack(scores[detector], dim=1), torch.tensor(limits[detector], dtype=torch.float64), owners
        )
        for detector in DETECTORS
    }


def predict(head: Head, texts: Sequence[str]) -> np.ndarray:
    """Return the head's logits, (n, intents)."""
    return head.predict([Example((text,), 0) for text in texts]).double().numpy()


def main(data: Path, task_file: Path, folder: Path, seeds: Sequence[int]) -> None:
    """Print the table."""
    texts = Task.load(task_file).spec.head.texts or ()
    print(format_table([run_seed(BASE, data, texts, folder, seed) for seed in seeds]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), [int(seed) for seed in sys.argv[4:]])
