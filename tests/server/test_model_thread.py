"""The model's thread: generations wait in the queue for room, and nothing else waits for them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import partial
from typing import Any

import openai
import pytest

from graft.mixture.generation.request import GenerationRequest
from graft.server.batching import Row
from graft.server.jobs import CallJob, EmbedJob, GenerateJob
from graft.server.opening import open_service
from graft.server.refusal import Refusal
from graft.server.service import Service
from tests.server.conftest import SMALL
from tests.server.holding import Held, holding, n_running, until, value_of
from tests.server.writer import write_writer
from tests.shared_builds import build_once

FEW = dataclasses.replace(SMALL, batch_rows=2, waiting=4, wait_seconds=0.0, seconds=60)
ASK: dict[str, Any] = {"prompt": "add one", "temperature": 0, "max_tokens": 2}


@pytest.fixture
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    """Room for two rows, and for four that wait; not started: a turn at a time."""
    folder = build_once(tmp_path_factory, "writer", write_writer)
    skills = {name: folder / f"{name}.safetensors" for name in ("loud", "soft")}
    return open_service(str(folder / "base"), skills, limits=FEW, token="x" * 16)


def generation(name: str, n_tokens: int = 3, skill: str | None = None) -> GenerateJob:
    request = GenerationRequest(name, (5, 6), skill, max_new_tokens=n_tokens)
    return GenerateJob(request=request, take=lambda token: None)


def test_generations_wait_where_they_are_counted(service: Service) -> None:
    thread = service.thread
    jobs = [generation(name) for name in "abcdef"]
    thread.submit(*jobs[:2])
    thread._turn()
    for job in jobs[2:]:
        thread.submit(job)
    thread._turn()
    assert len(thread.queue) == value_of(service, "graft_waiting_rows") == 4
    with pytest.raises(Refusal) as refused:
        thread.submit(generation("g"))
    assert refused.value.status == 429
    for _ in range(20):
        thread._turn()
        if all(job.result.done() for job in jobs):
            break
    assert [job.result.result() for job in jobs] == ["length"] * 6
    assert value_of(service, "graft_waiting_rows") == 0


def test_what_is_no_generation_passes_those_that_wait(service: Service) -> None:
    thread = service.thread
    thread.submit(*(generation(name, 50) for name in "ab"))
    thread._turn()
    thread.submit(*(generation(name) for name in "cdef"))
    embeds = EmbedJob(rows=[Row([5, 6], ()), Row([7], ())])
    calls = CallJob(call=lambda: "done")
    thread.submit(embeds)
    thread.submit(calls)
    for _ in range(2):
        thread._turn()
    assert len(embeds.result.result(0)) == 2
    assert calls.result.result(0) == "done"
    assert len(thread.queue) == 4


def test_the_batch_rows_are_those_that_decode_together(service: Service) -> None:
    thread = service.thread
    thread.submit(generation("a", 4))
    thread._turn()
    thread.submit(generation("b", 2))
    while n_running(service) or len(thread.queue):
        thread._turn()
    assert value_of(service, "graft_batch_rows_count") == 4
    assert value_of(service, "graft_batch_rows_sum") == 1 + 2 + 2 + 1


def test_the_batch_rows_of_other_jobs_are_those_of_each_pass(service: Service) -> None:
    service.thread.submit(EmbedJob(rows=[Row([5, 6], ()) for _ in range(5)]))
    service.thread._turn()
    assert value_of(service, "graft_batch_rows_count") == 3
    assert value_of(service, "graft_batch_rows_sum") == 5


@pytest.mark.parametrize(("abandoned", "n_passes"), [((0, 1), 2), ((0,), 4)])
def test_what_nobody_waits_for_is_stopped_between_passes(
    service: Service, monkeypatch: pytest.MonkeyPatch, abandoned: tuple[int, ...], n_passes: int
) -> None:
    """Two requests share four passes, and are given up within the second."""
    jobs = [EmbedJob(rows=[Row([5, 6], ()) for _ in range(4)]) for _ in range(2)]
    passes: list[int] = []
    embed_batch = service.resident.embedding.embed_batch

    def embed(batch: Any) -> Any:
        passes.append(len(batch["input_ids"]))
        if len(passes) == 2:
            for number in abandoned:
                jobs[number].abandon()
        return embed_batch(batch)

    monkeypatch.setattr(service.resident.embedding, "embed_batch", embed)
    service.thread._start(jobs)
    assert passes == [2] * n_passes
    assert all(isinstance(jobs[number].result.exception(0), CancelledError) == (n_passes == 2) for number in abandoned)
    assert len(abandoned) == 2 or len(jobs[1].result.result(0)) == 4
    passes.clear()
    service.thread._start([EmbedJob(rows=[Row([5, 6], ())])])
    assert passes == [1]


def test_what_nobody_waits_for_is_stopped_between_compositions(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, prepared = EmbedJob(rows=[Row([5, 6], names) for names in ((), ("loud",), ("soft",))]), []
    monkeypatch.setattr(service.resident, "prepare", lambda names: (prepared.append(names), job.abandon()))
    service.thread._start([job])
    assert prepared == [()]
    assert isinstance(job.result.exception(0), CancelledError)


def test_who_gave_up_takes_no_room(service: Service) -> None:
    thread = service.thread
    thread.submit(*(generation(name, 50) for name in "ab"))
    thread._turn()
    waiting = [generation(name) for name in "cdef"]
    thread.submit(*waiting)
    waiting[1].abandon()
    thread.submit(generation("g"))
    assert [job.request.id for job in thread.queue.generations] == ["c", "e", "f", "g"]
    waiting[0].abandon()
    thread._turn()
    assert len(thread.queue) == 3


def test_the_prompts_of_one_request_wait_all_or_none(service: Service) -> None:
    thread = service.thread
    thread.submit(*(generation(str(i)) for i in range(9)))  # alone it may be larger than the queue
    assert len(thread.queue) == 9
    with pytest.raises(Refusal):
        thread.submit(generation("x"), generation("y"))
    assert len(thread.queue) == 9


def test_what_no_batch_could_hold_is_refused_at_once(service: Service) -> None:
    thread = service.thread
    thread.submit(*(generation(name, 50) for name in "ab"))
    thread._turn()
    too_long, later = generation("c", 2**17), generation("d", 50)
    thread.submit(too_long)
    thread.submit(later)
    thread._turn()
    assert "are more than" in str(too_long.result.exception(0))
    assert thread.queue.generations == [later]


def test_a_removal_waits_for_generations_that_wait(service: Service) -> None:
    thread, resident = service.thread, service.resident
    thread.submit(*(generation(name, 6) for name in "ab"))
    thread._turn()
    carries = generation("c", 2, "loud")
    removal = CallJob(call=lambda: resident.remove("loud"), leaves="loud")
    thread.submit(carries)
    thread.submit(removal)
    thread._turn()
    assert removal.result.running()
    assert "loud" in resident.skills
    for _ in range(20):
        thread._turn()
        if removal.result.done():
            break
    assert carries.result.result(0) == "length"
    assert "loud" not in resident.skills


def test_an_error_of_who_is_dropped_ends_what_runs_and_not_the_thread(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread, jobs = service.thread, [generation(name, 50) for name in "abc"]
    thread.submit(*jobs[:2])
    thread._turn()
    for job in jobs[:2]:
        job.abandon()
    with monkeypatch.context() as broken:
        broken.setattr(thread._writing._batch, "cancel", lambda name: 1 / 0)  # type: ignore[union-attr]
        thread._turn()
    assert [type(job.result.exception(0)) for job in jobs[:2]] == [CancelledError] * 2
    assert n_running(service) == 0
    thread.submit(jobs[2])
    thread._turn()
    assert n_running(service) == 1


def test_a_thread_that_cannot_go_on_tells_all_that_wait(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    thread = service.thread
    jobs = [*(generation(name, 50, "loud") for name in "ab"), *(generation(name) for name in "cd")]
    thread.submit(*jobs)  # two run, two wait
    removal = CallJob(call=lambda: service.resident.remove("loud"), leaves="loud")
    embeds, given_up = EmbedJob(rows=[Row([5, 6], ())]), EmbedJob(rows=[Row([5, 6], ())])
    thread.submit(removal)
    thread._turn()
    thread.submit(embeds)
    thread.submit(given_up)
    given_up.abandon()
    monkeypatch.setattr(thread, "_start", lambda jobs: 1 / 0)
    thread._run()
    for job in (*jobs, removal, embeds):
        error = job.result.exception(0)
        assert isinstance(error, Refusal)
        assert (error.status, str(error)) == (503, "the model's thread does not run")
    with pytest.raises(Refusal, match="the model's thread does not run") as refused:
        thread.submit(generation("e"))
    assert refused.value.status == 503


def test_clients_of_a_thread_that_cannot_go_on_are_told(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    with holding(service, monkeypatch) as held, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(held.client.http.post, "/v1/completions", json=ASK)
        until(lambda: n_running(service) == 1)
        monkeypatch.setattr(service.thread, "_call_leaving", lambda: 1 / 0)
        held.release()
        assert answer.result().status_code == 503
        until(lambda: not service.thread.is_alive)
        assert held.client.refusal("/v1/embeddings", input="x") == (503, "the model's thread does not run")
        assert held.client.http.get("/health").status_code == 503


@pytest.fixture
def held(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    with holding(service, monkeypatch) as made:
        yield made


def test_clients_are_told_to_come_again_while_generations_run(held: Held) -> None:
    service, client = held.service, held.client
    with ThreadPoolExecutor(6) as pool:
        ask = partial(pool.submit, client.openai.completions.create, model="loud", **ASK)
        answers = [ask() for _ in range(2)]
        until(lambda: n_running(service) == 2)
        answers += [ask() for _ in range(4)]
        until(lambda: len(service.thread.queue) == 4)
        assert "graft_waiting_rows 4.0" in client.http.get("/metrics").text
        with pytest.raises(openai.RateLimitError):
            client.openai.completions.create(model="soft", **ASK)
        assert client.openai.embeddings.create(model="soft", input="add").data
        held.release()
        assert len({answer.result().choices[0].text for answer in answers}) == 1


def test_of_two_removals_of_a_skill_one_finds_none(held: Held) -> None:
    service, client = held.service, held.client
    headers = {"Authorization": f"Bearer {'x' * 16}"}
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(client.openai.completions.create, model="loud", **ASK)
        until(lambda: n_running(service) == 1)
        removal = pool.submit(client.http.delete, "/skills/loud", headers=headers)
        until(lambda: "loud" in service.resident.leaving)
        again = pool.submit(client.http.delete, "/skills/loud", headers=headers)
        time.sleep(0.1)
        held.release()
        assert (removal.result().status_code, again.result().status_code) == (200, 404)
        assert answer.result().choices
    assert service.resident.names == ["base", "soft"]
