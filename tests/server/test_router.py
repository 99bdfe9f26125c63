"""Requests that name no skill: each goes to the skill whose texts it is like, or to none, and the answer says which."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from graft.server.opening import open_service
from tests.server.client import Client, running
from tests.server.conftest import SMALL
from tests.server.references import write_references

FILM, MEAL = "the film plot was good with music", "the soup and bread was good with cake"


@pytest.fixture(scope="module")
def routed(shelf: Path, patches: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """moods has texts about films, few about meals, and noise none."""
    references = write_references(shelf, tmp_path_factory.mktemp("references"))
    service = open_service(
        str(shelf / "base"),
        patches,
        router=True,
        references=references,
        limits=SMALL,
        on_overlap="last",
        token="x" * 16,
    )
    with running(service) as client:
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
