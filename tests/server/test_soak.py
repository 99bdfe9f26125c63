"""The soak, for a few seconds: nothing lost, nothing mixed, whatever clients do and skills come and go."""

from __future__ import annotations

import pytest

from tests.server.soak import soak
from tests.server.writer import write_writer
from tests.shared_builds import build_once


def test_answers_are_never_mixed(tmp_path_factory: pytest.TempPathFactory) -> None:
    found = soak(build_once(tmp_path_factory, "writer", write_writer), seconds=4, clients=6)
    assert not found["wrong"]
    assert found["guest_came"][0] > 1
    for kind in ("completion", "stream", "embedding", "hang-up", "misbehavior"):
        assert found["counts"].get(kind, 0) > 0, found["counts"]
