"""A soak of the server: `python -m tests.server.soak --seconds 600`.

Clients of every kind at once, skills that come and go, clients that hang up, malformed and oversized requests. Every
answer is held against what its own grafted model gives alone; what is counted is printed as one JSON object.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import random
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from transformers import AutoModelForCausalLM

from graft.patch.format.reading import load_patch
from graft.patch.live import apply_patch
from graft.server.jobs import CallJob
from graft.server.limits import Limits
from graft.server.opening import open_service
from graft.server.service import Service
from graft.server.skill import open_skill
from tests.chat_models import byte_tokenizer
from tests.server.client import Client, running
from tests.server.writer import SKILLS, continue_alone, write_writer

PROMPTS = ("add one to two : ", "add nine : nine | ", "x")
MODELS = ("base", *SKILLS, "loud+soft", "guest")  # the guest comes and goes, and is loud by another name
N = 10
LIMITS = Limits(body_bytes=20_000, texts=16, waiting=64, batch_rows=16, seconds=60)


@dataclass
class Expected:
    """What each model gives alone: (model, prompt) -> text, and unit vectors."""

    texts: dict[tuple[str, str], str]
    vectors: dict[tuple[str, str], np.ndarray]


@dataclass
class Soak:
    """The clients of a server and what became of their requests."""

    client: Client
    expected: Expected
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, kind: str, problem: str | None = None) -> None:
        with self.lock:
            self.counts[kind] += 1
            if problem is not None:
                self.wrong.append(f"{kind}: {problem}")

    def ask(self, http: httpx.Client, draw: random.Random) -> None:
        """Send one request of a kind that is drawn, and check its answer."""
        draw.choices([self.complete, self.stream, self.embed, self.hang_up, self.misbehave], [4, 3, 6, 1, 2])[0](
            http, draw
        )

    def complete(self, http: httpx.Client, draw: random.Random) -> None:
        model, prompt = draw.choice(MODELS), draw.choice(PROMPTS)
        answer = http.post("/v1/completions", json=self._body(model, prompt))
        self._check("completion", model, answer, lambda: answer.json()["choices"][0]["text"], prompt)

    def stream(self, http: httpx.Client, draw: random.Random) -> None:
        model, prompt = draw.choice(MODELS), draw.choice(PROMPTS)
        text, ended = "", False
        with http.stream("POST", "/v1/completions", json=self._body(model, prompt) | {"stream": True}) as answer:
            for line in answer.iter_lines():
                data = line.removeprefix("data: ")
                ended = ended or data == "[DONE]"
                if line.startswith("data: {"):
                    text += json.loads(data)["choices"][0]["text"]
        self._check("stream", model, answer, lambda: text if ended else "(no end)", prompt)

    def embed(self, http: httpx.Client, draw: random.Random) -> None:
        model = draw.choice(MODELS)
        answer = http.post("/v1/embeddings", json={"model": model, "input": list(PROMPTS)})
        if answer.status_code == 200:
            found = np.array([item["embedding"] for item in answer.json()["data"]])
            expected = np.stack([self.expected.vectors[model, prompt] for prompt in PROMPTS])
            difference = float(np.abs(found - expected).max())
            self.note("embedding", None if difference < 1e-4 else f"{model} is off by {difference}")
        else:
            self._refused("embedding", model, answer)

    def hang_up(self, http: httpx.Client, draw: random.Random) -> None:
        body = self._body(draw.choice(MODELS), draw.choice(PROMPTS)) | {"max_tokens": 200}
        with contextlib.suppress(httpx.TimeoutException):
            http.post("/v1/completions", json=body, timeout=draw.uniform(0.001, 0.05))
        self.note("hang-up")

    def misbehave(self, http: httpx.Client, draw: random.Random) -> None:
        body, status = draw.choice([(b"{", 400), (b"x" * 30_000, 413), (b'{"input": "x", "model": "nobody"}', 404)])
        answer = http.post("/v1/embeddings", content=body, headers={"Content-Type": "application/json"})
        self.note("misbehavior", None if answer.status_code in (status, 429) else f"{answer.status_code} for {status}")

    def _body(self, model: str, prompt: str) -> dict[str, Any]:
        return {"model": model, "prompt": prompt, "max_tokens": N, "temperature": 0}

    def _check(self, kind: str, model: str, answer: httpx.Response, text: Callable[[], str], prompt: str) -> None:
        if answer.status_code != 200:
            self._refused(kind, model, answer)
            return
        found, expected = text(), self.expected.texts[model, prompt]
        self.note(kind, None if found == expected else f"{model}: {found!r}, not {expected!r}")

    def _refused(self, kind: str, model: str, answer: httpx.Response) -> None:
        """Count a refusal: a full queue, or the guest that is away."""
        allowed = (404, 400) if model == "guest" else (429,)
        right = answer.status_code in allowed or answer.status_code == 429
        self.note(f"{kind} refused", None if right else f"{model}: {answer.status_code}")


def expect(folder: Path) -> Expected:
    """Compute what every model gives alone."""
    from graft.tasks.heads.similarity import SimilarityHead
    from tests.models import toy_spec

    tokenizer, texts, vectors = byte_tokenizer(), {}, {}
    for model in MODELS:
        names = [] if model == "base" else ["loud"] if model == "guest" else model.split("+")
        loaded = AutoModelForCausalLM.from_pretrained(folder / "base").eval()
        head = SimilarityHead(loaded.base_model, tokenizer, toy_spec())
        patches = [load_patch(folder / f"{name}.safetensors") for name in names]
        with apply_patch(loaded, *patches, on_overlap="last"), torch.no_grad():
            for prompt in PROMPTS:
                vectors[model, prompt] = head.embed([(prompt,)])[0].numpy()
        for prompt in PROMPTS:
            tokens = continue_alone(folder, names, tokenizer(prompt)["input_ids"], N)
            end = tokens.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in tokens else N
            texts[model, prompt] = tokenizer.decode(tokens[:end], skip_special_tokens=True)
    return Expected(texts, vectors)


def come_and_go(service: Service, folder: Path, done: threading.Event) -> int:
    """Add and remove the guest until all is done; return how often."""
    times = 0
    while not done.is_set():
        guest = open_skill("guest", str(folder / "loud.safetensors"))
        jobs = CallJob(call=lambda guest=guest: service.resident.add(guest)), None
        for job in (jobs[0], CallJob(call=lambda: service.resident.remove("guest"), leaves="guest")):
            service.thread.queue.put(job)
            job.result.result(60)
            done.wait(0.05)
        times += 1
    return times


def resident_bytes() -> int:
    """Return the memory that this process holds, where the system tells."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0


def soak(folder: Path, seconds: float, clients: int = 8) -> dict[str, Any]:
    """Run it over the models of `write_writer`, and return what was counted."""
    service = open_service(
        str(folder / "base"),
        {name: folder / f"{name}.safetensors" for name in SKILLS},
        limits=LIMITS,
        on_overlap="last",
    )
    expected, done, memory = expect(folder), threading.Event(), []
    with running(service) as client:
        run = Soak(client, expected)

        def call(seed: int) -> None:
            draw = random.Random(seed)
            with httpx.Client(base_url=client.url, timeout=60) as http:
                while not done.is_set():
                    run.ask(http, draw)

        times: list[int] = []
        threads = [threading.Thread(target=call, args=(seed,)) for seed in range(clients)]
        threads.append(threading.Thread(target=lambda: times.append(come_and_go(service, folder, done))))
        for thread in threads:
            thread.start()
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            done.wait(min(left, seconds / 10))
            memory.append(resident_bytes())
        done.set()
        for thread in threads:
            thread.join(120)
        service.thread.queue.put(last := CallJob(call=service.resident.mixed.check_base))
        last.result.result(60)
    return {
        "counts": dict(run.counts),
        "wrong": run.wrong,
        "guest_came": times,
        "megabytes": [round(n / 1e6) for n in memory],
    }


def main() -> None:
    """Run it for as long as asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(soak(write_writer(Path(name) / "writer"), given.seconds, given.clients), indent=2))


if __name__ == "__main__":
    main()
