"""The server on the embedded encoder with 50 skills: requests a second and waiting times, two ways.

Each client sends one text after another to /v1/embeddings, every request with a skill drawn anew; clients run in a
process of their own. By turns: the same server, whose batches are taken apart by skill, each part with its patch
grafted and taken off again. The two ways alternate within a row.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import httpx
import numpy as np
import torch
from transformers import AutoModel

import graft
from graft.errors import GraftError
from graft.files.location import locate
from graft.server.batching import Row, embed_rows
from graft.server.opening import open_service
from graft.server.resident import Resident
from tests.benchmarks.live import draw_patch

BASE, N_SKILLS, SECONDS = "embedded:all-MiniLM-L6-v2", 50, 8.0
WORDS = [
    "the",
    "match",
    "ended",
    "in",
    "a",
    "draw",
    "after",
    "rain",
    "while",
    "markets",
    "fell",
    "and",
    "a",
    "new",
    "film",
    "won",
    "three",
    "prizes",
    "in",
    "spring",
]


def measure(clients: Sequence[int] = (1, 8, 64), seconds: float = SECONDS, turns: int = 2) -> list[dict[str, object]]:
    """One row a number of clients."""
    from tests.server.client import running

    try:
        path = locate(BASE).path
    except GraftError as error:
        return [{"clients": "not measured", "reason": str(error)}]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        service = open_service(BASE, dict(_save_skills(path, Path(name))))
        by_turns = _BySkill(service.resident)
        with running(service) as client:
            ways = {"mixed": embed_rows, "by turns": by_turns.embed}
            table = []
            for n in clients:
                found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
                for way, function in [*ways.items()] * turns:
                    with mock.patch("graft.server.model_thread.embed_rows", function):
                        found[way].append(_ask(client.url, n, seconds))
                table.append(_row(n, found))
            return table


class _BySkill:
    """Rows embedded skill by skill, each with its patch grafted."""

    def __init__(self, resident: Resident) -> None:
        skills = resident.skills.values()
        self._prepared = {skill.name: graft.prepare_patch(resident.head.model, skill.patch) for skill in skills}

    def embed(self, resident: Resident, rows: Sequence[Row]) -> torch.Tensor:
        vectors: list[torch.Tensor | None] = [None] * len(rows)
        for skills in dict.fromkeys(row.skills for row in rows):
            own = [place for place, row in enumerate(rows) if row.skills == skills]
            with self._prepared[skills[0]].apply():
                for place, vector in zip(own, embed_rows(resident, [Row(rows[i].ids, ()) for i in own]), strict=True):
                    vectors[place] = vector
        return torch.stack([vector for vector in vectors if vector is not None])


def _save_skills(path: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    model = AutoModel.from_pretrained(path)
    for number in range(N_SKILLS):
        file = folder / f"{number}.safetensors"
        graft.save_patch(draw_patch(model, 1e-4, number), file)
        yield f"skill-{number}", file


def _ask(url: str, n: int, seconds: float) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.serving", url, str(n), str(seconds)]
    found: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def _row(n: int, found: dict[str, list[dict[str, float]]]) -> dict[str, object]:
    rates = {way: float(np.mean([one["rate"] for one in each])) for way, each in found.items()}
    row: dict[str, object] = {"clients": n} | {f"{way}, requests a s": f"{rate:.0f}" for way, rate in rates.items()}
    row["times as many"] = f"{rates['mixed'] / rates['by turns']:.2f}"
    for way, each in found.items():
        p50, p99 = (float(np.mean([one[key] for one in each])) for key in ("p50", "p99"))
        row[f"{way}, p50 and p99, ms"] = f"{p50:.0f}, {p99:.0f}"
    return row | {"refused": sum(int(one["refused"]) for each in found.values() for one in each)}


def main() -> None:
    """Be so many clients of a server, and print what they saw."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("url")
    parser.add_argument("clients", type=int)
    parser.add_argument("seconds", type=float)
    given = parser.parse_args()
    times: list[float] = []
    refused: list[int] = []
    end = time.monotonic() + given.seconds

    def call(seed: int) -> None:
        draw = random.Random(seed)
        with httpx.Client(base_url=given.url, timeout=60) as http:
            while (start := time.monotonic()) < end:
                text = " ".join(draw.choices(WORDS, k=draw.randint(6, 24)))
                body = {"model": f"skill-{draw.randrange(N_SKILLS)}", "input": text}
                status = http.post("/v1/embeddings", json=body).status_code
                if status == 200:
                    times.append(time.monotonic() - start)
                else:
                    refused.append(status)

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(given.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    p50, p99 = np.percentile(times, (50, 99)) * 1e3
    print(json.dumps({"rate": len(times) / given.seconds, "p50": p50, "p99": p99, "refused": len(refused)}))


if __name__ == "__main__":
    main()
