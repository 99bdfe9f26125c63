from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="module")
def resample_few() -> None:
    """Resample as often as a person does: intervals are what is tested here."""
