"""Texts whose vectors are known: "topic/number" lies in the topic's cluster, and every other text far from all."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch

WIDTH = 24
TOPICS = ("bank", "food", "travel")


def plant(texts: Sequence[str]) -> torch.Tensor:
    """(n, WIDTH) fp32 unit vectors: around an axis of the topic's own, or of none."""
    if not texts:
        return torch.empty(0, 0)
    return torch.stack([_vector(text) for text in texts])


def own_texts(topic: str, n: int, start: int = 0) -> list[str]:
    return [f"{topic}/{i}" for i in range(start, start + n)]


def _vector(text: str) -> torch.Tensor:
    topic = text.partition("/")[0]
    noise = torch.randn(WIDTH, generator=torch.Generator().manual_seed(zlib.crc32(text.encode())))
    center = torch.zeros(WIDTH)
    center[TOPICS.index(topic) if topic in TOPICS else WIDTH - 1] = 1
    return torch.nn.functional.normalize(center + 0.1 * noise, dim=0)
