"""A tiny masked and a tiny causal language model, built once and read by the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models import write_causal, write_masked


@pytest.fixture(scope="session")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_masked(tmp_path_factory.mktemp("masked") / "masked")


@pytest.fixture(scope="session")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_causal(tmp_path_factory.mktemp("causal") / "causal")
