"""/v1/models and /v1/embeddings, by OpenAI's own client."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openai
import pytest
import torch

from graft.patch.format.reading import load_patch
from graft.patch.format.writing import save_patch
from graft.patch.live import apply_patch
from graft.server.opening import open_service
from graft.tasks.heads.similarity import SimilarityHead
from tests.models import toy_rows, toy_spec
from tests.server.client import Client, running
from tests.server.conftest import SMALL

TEXTS = [row["text"] for row in toy_rows(12, 5)]


@pytest.fixture(scope="module")
def alone(shelf: Path, patches: dict[str, Path]) -> dict[str, np.ndarray]:
    """Embeddings of TEXTS by each skill's own grafted model, and by the base."""
    head = SimilarityHead.load(shelf / "base", toy_spec(), torch.float32)
    head.model.eval()
    found = {}
    for names in (["base"], ["moods"], ["noise"], ["few"], ["moods", "noise"]):
        loaded = [load_patch(patches[name]) for name in names if name != "base"]
        with apply_patch(head.model, *loaded, on_overlap="last"), torch.no_grad():
            found["+".join(names)] = np.stack([head.embed([(text,)])[0].numpy() for text in TEXTS])
    return found


def test_models_are_the_base_and_the_skills(client: Client) -> None:
    assert [model.id for model in client.openai.models.list()] == ["base", "moods", "noise", "few"]
    assert client.openai.models.retrieve("moods").id == "moods"
    with pytest.raises(openai.NotFoundError, match="there is no skill 'other'"):
        client.openai.models.retrieve("other")


@pytest.mark.parametrize("model", ["base", "moods", "noise", "moods+noise"])
@pytest.mark.parametrize("encoding", [{}, {"encoding_format": "float"}])
def test_embeddings_are_those_of_the_grafted_model(
    client: Client, alone: dict[str, np.ndarray], model: str, encoding: dict[str, str]
) -> None:
    answer = client.openai.embeddings.create(model=model, input=TEXTS, **encoding)
    embedded = np.array([item.embedding for item in answer.data])
    assert [item.index for item in answer.data] == list(range(len(TEXTS)))
    assert np.abs(embedded - alone[model]).max() < 1e-5
    assert np.allclose(np.linalg.norm(embedded, axis=1), 1)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(len(text.split()) + 2 for text in TEXTS)


def test_skills_differ(alone: dict[str, np.ndarray]) -> None:
    for name in ("moods", "noise", "few", "moods+noise"):
        assert np.abs(alone[name] - alone["base"]).max() > 1e-3


def test_many_clients_at_once_each_get_their_own_skill(client: Client, alone: dict[str, np.ndarray]) -> None:
    wanted = [(model, i) for i in range(len(TEXTS)) for model in alone]

    def ask(item: tuple[str, int]) -> float:
        model, i = item
        answer = client.openai.embeddings.create(model=model, input=TEXTS[i])
        return float(np.abs(np.array(answer.data[0].embedding) - alone[model][i]).max())

    with ThreadPoolExecutor(12) as pool:
        assert max(pool.map(ask, wanted)) < 1e-5
    assert "graft_batch_rows_count" in client.http.get("/metrics").text


def test_one_text_needs_no_list(client: Client, alone: dict[str, np.ndarray]) -> None:
    answer = client.openai.embeddings.create(model="moods", input=TEXTS[3])
    assert np.abs(np.array(answer.data[0].embedding) - alone["moods"][3]).max() < 1e-5


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_vectors_that_are_not_finite_are_no_answer(
    encoding: str, shelf: Path, patches: dict[str, Path], tmp_path: Path
) -> None:
    moods = load_patch(patches["moods"])
    values = {name: torch.full_like(part, 3e38) for name, part in moods.values.items()}
    save_patch(dataclasses.replace(moods, values=values), tmp_path / "broken.safetensors")
    skills = {"moods": patches["moods"], "broken": tmp_path / "broken.safetensors"}
    with running(open_service(str(shelf / "base"), skills, limits=SMALL)) as client:
        asked = {"input": "good", "encoding_format": encoding}
        assert client.refusal("/v1/embeddings", model="broken", **asked) == (
            400,
            "the model's outputs on these texts are not finite",
        )
        assert client.post("/v1/embeddings", model="moods", **asked)["data"]
