"""Requests that name no skill, routed to ten skills or to none: the domains of CLINC150 and its out-of-scope queries.

    python examples/routing.py DATA recipes/tasks/clinc150.yaml 0 1 2 3 4

DATA holds clinc150/train.jsonl, validation.jsonl and test.jsonl, with "text", "label" and "domain" in each row, and
clinc150_oos/test.jsonl. A skill is a domain: 200 of its training texts to learn from and 100 of its validation texts
for the threshold, both drawn by the seed. Thresholds accept 95 % of a skill's own texts. Test texts give the table.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from graft.evaluate.detection import DETECTORS, measure_auroc
from graft.evaluate.t_interval import mean_interval
from graft.mixture.routing.learning import find_threshold, learn_reference
from graft.mixture.routing.router import Router
from graft.mixture.routing.text_embedder import Embed, TextEmbedder
from graft.tasks.task import Task

BASE = "embedded:all-MiniLM-L6-v2"
LEARNED, HELD_OUT = 200, 100  # texts a skill
NONE = -1
Rows = list[dict[str, Any]]
Texts = dict[str, list[str]]  # by domain
Score = Callable[[torch.Tensor], torch.Tensor]  # (n, w) -> (n,)
COLUMNS = {
    "right": "routed right",
    "lost": "refused",
    "novel": "novel refused",
    "withheld": "of a skill not there, refused",
    "auroc": "AUROC of novel",
}


def read_rows(path: Path) -> Rows:
    """Read JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def draw_texts(rows: Rows, n: int, seed: int) -> Texts:
    """Draw so many texts of each domain."""
    domains = sorted({row["domain"] for row in rows})
    own = {domain: [row["text"] for row in rows if row["domain"] == domain] for domain in domains}
    return {domain: random.Random(f"{seed} {domain}").sample(texts, n) for domain, texts in own.items()}


def nearest_mean(vectors: torch.Tensor) -> Score:
    """Score by the cosine to the mean of a skill's texts."""
    mean = torch.nn.functional.normalize(vectors.mean(0), dim=0)
    return lambda embedded: embedded @ mean


def nearest_texts(vectors: torch.Tensor) -> Score:
    """Score by the mean cosine to the five nearest of a skill's texts, which must all be kept."""
    return lambda embedded: (embedded @ vectors.T).topk(5, dim=1).values.mean(1)


def own_labels(embed: Embed, texts: Sequence[str], detector: str) -> Score:
    """Score by the logits of a skill's own head at the base, whose labels are its intents."""
    labels = embed(texts)
    return lambda embedded: torch.from_numpy(DETECTORS[detector]((20 * embedded @ labels.T).double().numpy()))


def judge(scores: torch.Tensor, accepts: torch.Tensor, owners: torch.Tensor) -> dict[str, float]:
    """Judge the choice of the highest score among the skills that accept, on texts of known owners.

    Args:
        scores, accepts: (n, skills).
        owners: (n,), NONE for novel texts.
    """
    chosen = _choose(scores, accepts)
    known, best = owners != NONE, scores.amax(1)
    without = accepts.clone()  # a skill's own texts as they would fare if it were not there
    without[known, owners[known]] = False
    return {
        "right": _share(chosen[known] == owners[known]),
        "lost": _share(chosen[known] == NONE),
        "novel": _share(chosen[~known] == NONE),
        "withheld": _share(_choose(scores, without)[known] == NONE),
        "auroc": measure_auroc(best[known], best[~known]),
    }


def run_seed(embed: Embed, data: Path, intents: Mapping[str, Sequence[str]], seed: int) -> dict[str, dict[str, float]]:
    """Learn ten skills from the texts that a seed draws, and judge every method on test."""
    learned = draw_texts(read_rows(data / "clinc150/train.jsonl"), LEARNED, seed)
    held_out = draw_texts(read_rows(data / "clinc150/validation.jsonl"), HELD_OUT, seed)
    tests, novel = read_rows(data / "clinc150/test.jsonl"), read_rows(data / "clinc150_oos/test.jsonl")
    names = sorted(learned)
    owners = torch.tensor([names.index(row["domain"]) for row in tests] + [NONE] * len(novel))
    texts = [row["text"] for row in (*tests, *novel)]
    embedded = embed(texts)
    methods: dict[str, Callable[[str], Score]] = {
        "nearest mean": lambda name: nearest_mean(embed(learned[name])),
        "five nearest texts": lambda name: nearest_texts(embed(learned[name])),
        "own label head, msp": lambda name: own_labels(embed, intents[name], "msp"),
        "own label head, energy": lambda name: own_labels(embed, intents[name], "energy"),
    }
    results = {}
    for method, learn in methods.items():
        own = [learn(name) for name in names]
        thresholds = [find_threshold(score(embed(held_out[name]))) for name, score in zip(names, own, strict=True)]
        scores = torch.stack([score(embedded) for score in own], dim=1)
        results[method] = judge(scores, scores >= torch.tensor(thresholds), owners)
        if method == "nearest mean":
            results["nearest mean, no threshold"] = judge(scores, torch.ones_like(scores, dtype=torch.bool), owners)
    drawn = torch.rand(len(texts), len(names) + 1, generator=torch.Generator().manual_seed(seed))
    results["random skill or none"] = judge(drawn[:, :-1], drawn[:, :-1] > drawn[:, -1:], owners)
    router = Router(embed, {name: learn_reference(embed, learned[name], held_out[name]) for name in names})
    scores = router.scores(texts)
    accepts = scores >= router.thresholds
    assert router.choose(texts) == [None if i == NONE else names[i] for i in _choose(scores, accepts).tolist()]
    results["router"] = judge(scores, accepts, owners)
    return results


def format_table(seeds: Sequence[Mapping[str, Mapping[str, float]]]) -> str:
    """Format Markdown: methods, mean and 95 % t-interval over the seeds."""
    lines = [f"| method | {' | '.join(COLUMNS.values())} |", f"| --- |{' --- |' * len(COLUMNS)}"]
    for method in seeds[0]:
        cells = (_cell([seed[method][key] for seed in seeds]) for key in COLUMNS)
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def read_intents(data: Path, task_file: Path) -> dict[str, list[str]]:
    """Return for each domain the label texts of its intents, from the TASK file."""
    texts = Task.load(task_file).spec.head.texts or ()
    domains = {row["label"]: row["domain"] for row in read_rows(data / "clinc150/train.jsonl")}
    return {name: [texts[i] for i, domain in domains.items() if domain == name] for name in set(domains.values())}


def open_embedder(base: str) -> Embed:
    """Load a base, and remember what it was asked for before: seeds share most texts."""
    from transformers import AutoModel, AutoTokenizer

    from graft.sources.opening import open_model

    path = open_model(base).checkpoint.path
    embed = TextEmbedder(AutoModel.from_pretrained(path), AutoTokenizer.from_pretrained(path))
    known: dict[str, torch.Tensor] = {}

    def look_up(texts: Sequence[str]) -> torch.Tensor:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        known.update(zip(new, embed(new), strict=True))
        return torch.stack([known[text] for text in texts])

    return look_up


def _choose(scores: torch.Tensor, accepts: torch.Tensor) -> torch.Tensor:
    best, chosen = scores.masked_fill(~accepts, -torch.inf).max(1)
    return chosen.where(best > -torch.inf, NONE)


def _share(values: torch.Tensor) -> float:
    return float(values.double().mean())


def _cell(values: Sequence[float]) -> str:
    found = mean_interval(values)
    return f"{found['mean']:.3f}" + ("" if found["half"] is None else f" ± {found['half']:.3f}")


def main(data: Path, task_file: Path, seeds: Sequence[int], embed: Embed) -> None:
    """Print the table."""
    intents = read_intents(data, task_file)
    print(format_table([run_seed(embed, data, intents, seed) for seed in seeds]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [int(seed) for seed in sys.argv[3:]], open_embedder(BASE))
