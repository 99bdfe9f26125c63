"""Limits: how much one request, and all of them together, may ask of the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from graft.specs.block import Block
from graft.specs.ranges import Above, AtLeast, Count


@dataclass(frozen=True)
class Limits(Block):
    """Limits of a server.

    Attributes:
        body_bytes: of a request's body; more is refused with 413.
        texts: of a request, counted once for each of its skills.
        characters: of the texts of /classify, counted once for each head that reads them; more is refused with 400
            before any is turned into tokens.
        tokens: of a request, prompts and what may be written together; more is refused with 400.
        new_tokens: that one prompt may be continued by.
        seconds: from a request's arrival to its answer; then it is refused with 504, and its work dropped.
        idle_seconds: that a connection may be open without a request, as where headers do not end; then it is closed,
            and one whose answer nobody reads after `seconds`.
        waiting: rows that may wait for the model; where there are more, requests are refused with 429.
        batch_rows: rows of one forward pass.
        batch_tokens: tokens of one forward pass, padding included.
        wait_seconds: how long a request may wait for others to share its batch, where the model is idle.
        skills: that may be resident at once.
        patch_bytes: of a patch that is fetched while the server runs.
        drain_seconds: how long what runs may go on once the server is told to stop.
    """

    body_bytes: Count = 2**20
    texts: Count = 256
    characters: Count = 2**20
    tokens: Count = 2**15
    new_tokens: Count = 1024
    seconds: Annotated[float, Above(0)] = 60.0
    idle_seconds: Annotated[float, Above(0)] = 10.0
    waiting: Count = 1024
    batch_rows: Count = 64
    batch_tokens: Count = 2**13
    wait_seconds: Annotated[float, AtLeast(0)] = 0.002
    skills: Count = 1000
    patch_bytes: Count = 2**30
    drain_seconds: Annotated[float, Above(0)] = 30.0
