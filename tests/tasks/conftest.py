"""A tiny masked, a tiny causal and a tiny chatting language model, built once and read by the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chat_models import write_chat_model
from tests.models import write_causal, write_masked


@pytest.fixture(scope="session")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_masked(tmp_path_factory.mktemp("masked") / "masked")


@pytest.fixture(scope="session")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_causal(tmp_path_factory.mktemp("causal") / "causal")


@pytest.fixture(scope="session")
def chatting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_model(tmp_path_factory.mktemp("chatting") / "chatting")
