"""The registry of adapters that can be read."""

from __future__ import annotations

from graft.registry import Entry, Registry

ADAPTERS = Registry(
    "PEFT type",
    (
        Entry(
            name="LORA",
            help="low-rank products, and the tensors that were trained whole",
            target="graft.sources.adapters.lora:read_lora",
            source="https://arxiv.org/abs/2106.09685",
        ),
        Entry(
            name="SHIRA",
            help="sparse differences of linear layers",
            target="graft.sources.adapters.shira:read_shira",
            source="https://arxiv.org/abs/2406.13175",
        ),
    ),
)
