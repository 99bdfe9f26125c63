"""Requests that name no skill: each goes to the skill whose texts it is like, or to none, and the answer says which."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graft.server.opening import open_service
from graft.server.routes import classify
from graft.server.service import Service
from tests.server.client import Client, running
from tests.server.conftest import SMALL
from tests.server.references import write_references

FILM, MEAL = "the film plot was good with music", "the soup and bread was good with cake"


@pytest.fixture(scope="module")
def routing(shelf: Path, patches: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Service:
    """moods has texts about films, few about meals, and noise none."""
    references = write_references(shelf, tmp_path_factory.mktemp("references"))
    return open_service(
        str(shelf / "base"),
        patches,
        router=True,
        references=references,
        limits=SMALL,
        on_overlap="last",
        token="x" * 16,
    )


@pytest.fixture(scope="module")
def routed(routing: Service) -> Iterator[Client]:
    with running(routing) as client:
        yield client


def test_texts_go_to_the_skill_that_they_are_like(routed: Client) -> None:
    answer = routed.post("/v1/embeddings", input=[FILM, MEAL])
    assert [item["skill"] for item in answer["data"]] == ["moods", "few"]
    assert answer["model"] == "auto"
    for i, (text, name) in enumerate(((FILM, "moods"), (MEAL, "few"))):
        own = routed.post("/v1/embeddings", input=text, model=name)["data"][0]["embedding"]
        assert np.abs(np.array(own) - answer["data"][i]["embedding"]).max() < 1e-5
    assert routed.post("/v1/embeddings", input=FILM, model="auto")["model"] == "moods"
    assert routed.post("/v1/embeddings", input=FILM, model="base")["model"] == "base"


def test_each_text_gets_the_labels_of_its_skill(routed: Client) -> None:
    texts = [FILM, MEAL]
    automatic, moods, few = routed.post("/classify", texts=texts, skills=["auto", "moods", "few"])["results"]
    assert [item["skill"] for item in automatic["predictions"]] == ["moods", "few"]
    for item, own in zip(automatic["predictions"], (moods["predictions"][0], few["predictions"][1]), strict=True):
        assert item["label"] == own["label"]
        assert np.abs(np.array(item["probabilities"]) - own["probabilities"]).max() < 1e-5


def test_a_task_that_is_named_must_be_there(routed: Client) -> None:
    ask = {"texts": [FILM], "skill": "auto"}
    assert routed.post("/classify", task="few", **ask)["results"][0]["predictions"][0]["task"] == "few"
    status, message = routed.refusal("/classify", task="nobody", **ask)
    assert (status, "there is no skill 'nobody'" in message) == (404, True)
    status, message = routed.refusal("/classify", task="noise", **ask)
    assert (status, "skill 'noise' has no labels to read" in message) == (422, True)


def test_too_many_tokens_are_refused_before_they_are_routed(routed: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.mixture.routing.router.Router.choose", lambda *_: pytest.fail("it was asked"))
    status, message = routed.refusal("/v1/embeddings", input=["the " * 28] * 20)
    assert (status, message) == (400, "600 tokens are more than 500 in one request")


@pytest.fixture
def leaving(routing: Service) -> Iterator[set[str]]:
    """The names of skills that are about to be removed; none is in the end."""
    yield routing.resident.leaving
    routing.resident.leaving.clear()


def skills_of(routed: Client) -> list[list[str]]:
    """What texts about a film and a meal are embedded with, and labeled with."""
    embedded = routed.post("/v1/embeddings", input=[FILM, MEAL])["data"]
    (labeled,) = routed.post("/classify", texts=[FILM, MEAL], skill="auto")["results"]
    assert [item["label"] is None for item in labeled["predictions"]] == [
        item["skill"] == "base" for item in labeled["predictions"]
    ]
    return [[item["skill"] for item in answers] for answers in (embedded, labeled["predictions"])]


def test_a_skill_that_is_about_to_be_removed_is_not_chosen(routed: Client, leaving: set[str]) -> None:
    assert skills_of(routed) == [["moods", "few"]] * 2
    leaving.update(("moods", "few"))
    assert skills_of(routed) == [["base", "base"]] * 2


def test_a_skill_that_leaves_once_it_is_chosen_gives_the_base(
    routed: Client, routing: Service, leaving: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    router = routing.resident.router
    assert router is not None
    choose, chosen = router.choose, []

    def choose_then_leave(texts: list[str], **more: Any) -> list[str | None]:
        chosen.append(choose(texts, **more))
        leaving.add("few")
        return chosen[-1]

    monkeypatch.setattr(router, "choose", choose_then_leave)
    assert routed.post("/v1/embeddings", input=[MEAL])["model"] == "base"
    leaving.clear()
    (labeled,) = routed.post("/classify", texts=[MEAL], skill="auto")["results"]
    assert labeled["predictions"][0]["skill"] == "base"
    assert chosen == [["few"]] * 2


def test_a_skill_that_leaves_while_its_texts_are_encoded_is_chosen_no_more(
    routed: Client, routing: Service, leaving: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, asked = classify.encode_questions, []

    def encode_then_leave(*arguments: Any) -> Any:
        asked.append([question.task for question in arguments[1]])
        leaving.add("few")
        return encode(*arguments)

    monkeypatch.setattr(classify, "encode_questions", encode_then_leave)
    (labeled,) = routed.post("/classify", texts=[FILM, MEAL], skill="auto")["results"]
    assert asked[0] == ["moods", "few"]
    assert asked[1][0] == labeled["predictions"][0]["skill"] == "moods"
    assert labeled["predictions"][1]["skill"] != "few"


def test_a_skill_that_is_gone_gets_nothing(routed: Client) -> None:
    headers = {"Authorization": f"Bearer {'x' * 16}"}
    assert routed.http.delete("/skills/few", headers=headers).status_code == 200
    answer = routed.post("/classify", texts=[FILM, MEAL], skill="auto")["results"][0]
    assert answer["predictions"][0]["skill"] == "moods"
    assert answer["predictions"][1]["skill"] in ("base", "moods")
    if answer["predictions"][1]["skill"] == "base":
        assert answer["predictions"][1]["label"] is None


def test_without_a_router_there_is_no_choice(client: Client) -> None:
    status, message = client.refusal("/v1/embeddings", input="x", model="auto")
    assert (status, message) == (422, "this server has no router: name a skill, or base")
    assert client.post("/v1/embeddings", input="x")["model"] == "base"
