"""A short run of the fuzzer, a corpus of hostile files, and proof that what is watched would be seen."""

from __future__ import annotations

import json
import os
import random
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graft_cli.saving import describe_lines

from graft.errors import GraftError, PatchFormatError
from graft.files.tensor_spec import TensorSpec
from graft.patch.format.declaration import KEY
from graft.patch.format.reading import load_mask, load_patch
from graft.patch.format.writing import patch_bytes
from graft.patch.mask import Mask
from graft.patch.summary import describe_patch
from tests.fuzz import campaign
from tests.fuzz.__main__ import describe
from tests.fuzz.campaign import run_campaign
from tests.fuzz.mutations import MUTATIONS, hostile_file
from tests.fuzz.parts import SEEDS, Parts
from tests.patch.format.corruptions import GOOD, PATCH

MEBIBYTE = 2**20


def test_a_short_campaign_finds_nothing(tmp_path: Path) -> None:
    outcome = run_campaign(tmp_path, range(800), seed=1)
    assert (outcome.crashes, outcome.events) == ([], [])
    assert outcome.executions == 800 == outcome.loaded + outcome.refused
    assert outcome.loaded > 80  # some mutations do no harm, so that what lies deep is reached
    assert len(outcome.facts) > 50
    assert outcome.peak < 16 * MEBIBYTE
    assert "| crashes, other errors, long messages | 0 |" in describe(outcome, 1, 1.0, 0)


def test_a_file_depends_on_seed_and_number_alone(tmp_path: Path) -> None:
    files = [hostile_file(random.Random(f"3/{number}")) for number in range(50)]
    assert files == [hostile_file(random.Random(f"3/{number}")) for number in range(50)]
    assert len(set(files)) > 40
    assert patch_bytes(PATCH) == SEEDS[0].join() or load_patch(write(tmp_path, SEEDS[0].join())) is not None


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_mutation_changes_a_file(name: str) -> None:
    draw = random.Random(7)
    changed = 0
    for seed in SEEDS:
        parts = seed.copy()
        MUTATIONS[name](draw, parts)
        changed += parts.join() != seed.join()
    assert changed > 0
    assert all(seed.join() == again.copy().join() for seed, again in zip(SEEDS, SEEDS, strict=True))


@pytest.mark.parametrize(
    ("deed", "seen"),
    [
        (lambda path: path.with_name("mine").write_text("x"), "open"),
        (lambda path: os.system("true"), "os.system"),
        (lambda path: path.with_name("folder").mkdir(), "os.mkdir"),
    ],
)
def test_a_reader_that_does_more_is_seen(
    deed: Callable[[Path], object], seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def doing(path: Path) -> object:
        deed(path)
        return load_mask(path)

    monkeypatch.setattr(campaign, "load_mask", doing)
    events = run_campaign(tmp_path, range(1)).events
    assert events
    assert events[0].startswith(seen)


def test_a_reader_that_fails_or_takes_too_much_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: Path) -> object:
        raise IndexError("out of range")

    def wordy(path: Path) -> object:
        raise GraftError("x" * 1000)

    def greedy(path: Path) -> object:
        np.zeros(4 * MEBIBYTE, np.uint8)
        return load_mask(path)

    for reader, what in ((failing, "IndexError: out of range"), (wordy, "a message of 1,000 characters")):
        monkeypatch.setattr(campaign, "load_mask", reader)
        assert run_campaign(tmp_path, range(1)).crashes == [(0, what)]
    monkeypatch.setattr(campaign, "load_mask", greedy)
    assert run_campaign(tmp_path, range(1)).peak > 3 * MEBIBYTE


def write(folder: Path, data: bytes) -> Path:
    (folder / "p").write_bytes(data)
    return folder / "p"


def framed(header: bytes, payload: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + payload


def with_meta(**changes: Any) -> bytes:
    parts = SEEDS[0].copy()
    parts.meta |= changes
    parts.reseal()
    return parts.join()


def with_row(**changes: Any) -> bytes:
    parts = SEEDS[0].copy()
    for place, value in changes.items():
        parts.rows[0][int(place[1:])] = value
    parts.reseal()
    return parts.join()


def header_of(n: int, entry: Any) -> bytes:
    return framed(json.dumps({"__metadata__": {KEY: "{}"}, **{f"dense/{i}": entry for i in range(n)}}).encode())


EMPTY = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
BOMBS: dict[str, Callable[[], bytes]] = {
    "four million blanks": lambda: framed(b'{"__metadata__":{}' + b" " * 4_000_000 + b"}"),
    "a header beyond its limit": lambda: framed(b"{" + b" " * 2**25 + b"}"),
    "8,000 empty tensors": lambda: header_of(8_000, EMPTY),
    "8,000 tensors of one place": lambda: header_of(8_000, {**EMPTY, "shape": [4], "data_offsets": [0, 4]}),
    "a header of one long text": lambda: framed(b'{"a":"' + b"x" * 2_000_000 + b'"}'),
    "a header of numbers": lambda: framed(b'{"a":[' + b"1," * 500_000 + b"1]}"),
    "a header of brackets": lambda: framed(b"[" * 2_000_000),
    "a row repeated 5,000 times": lambda: with_meta(tensors=[SEEDS[0].rows[0]] * 5_000),
    "5,000 rows that promise much": lambda: with_meta(
        tensors=[[f"{i:05}", "F32", [2**40], "gaps", 2**30, 2**30, "0" * 16, "0" * 16] for i in range(5_000)]
    ),
    "entries whose number wraps": lambda: with_row(_2=[2**32, 2**32], _4=2**32),
    "elements whose number wraps": lambda: with_row(_2=[2**33, 2**33, 2**33], _4=1),
    "all of a huge tensor": lambda: with_row(_2=[2**45], _3="all", _4=2**45, _5=0),
    "bits of a huge tensor": lambda: with_row(_2=[2**62], _3="bits", _4=2, _5=0),
    "a long name": lambda: with_row(_0="a" * 1_000_000, _1="F31"),
    "a long code": lambda: with_row(_3="x" * 1_000_000),
    "a long count": lambda: with_row(_4="9" * 1_000_000),
    "a long kind": lambda: with_meta(kind=["x"] * 100_000),
    "a pickle": lambda: b"\x80\x04cos\nsystem\n(S'true'\ntR." + GOOD,
    "an archive behind": lambda: GOOD + b"PK\x05\x06" + bytes(18),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_soon_and_small(name: str, tmp_path: Path) -> None:
    data = BOMBS[name]()
    path = write(tmp_path, data)
    start = time.process_time()
    with pytest.raises(PatchFormatError) as caught:
        load_patch(path)
    spent = time.process_time() - start
    assert len(str(caught.value)) < len(str(path)) + campaign.LONGEST_MESSAGE
    assert "\n" not in str(caught.value)
    tracemalloc.start()
    with pytest.raises(PatchFormatError):
        load_mask(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < campaign.ALLOWED * len(data) + MEBIBYTE
    assert spent < 2


HARMLESS: dict[str, Callable[[Parts], object]] = {
    "names that are paths": lambda parts: parts.rows[0].__setitem__(0, "../../../etc/passwd"),
    "names of control characters": lambda parts: parts.rows[0].__setitem__(0, "\x1b[2J\n\0\u202e"),
    "more entries than parameters": lambda parts: parts.meta["base"].update(n_parameters=1),
    "another count": lambda parts: parts.meta.update(k=10**9, density=-7.0),
    "orders to the terminal": lambda parts: parts.meta.update(licence="\x1b[2J\x9b31m", task={"name": "a\r\nb\u202e"}),
    "markup": lambda parts: parts.meta.update(licence="<script>alert(1)</script>", scope="[x](javascript:1)"),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_lies_that_a_file_may_tell_touch_nothing(name: str, tmp_path: Path) -> None:
    parts = SEEDS[0].copy()
    HARMLESS[name](parts)
    parts.reseal()
    path = write(tmp_path, parts.join())
    if parts.rows[0][0] > parts.rows[1][0]:
        with pytest.raises(PatchFormatError, match="out of order"):
            load_patch(path)
        return
    patch = load_patch(path)
    assert len(patch) == len(PATCH)
    described = describe_patch(patch, len(GOOD), patch.provenance)
    assert described["k"] == len(PATCH)
    assert all(line.isprintable() for line in describe_lines(described))
    assert sorted(item.name for item in tmp_path.iterdir()) == ["p"]


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder" / "patch.safetensors")
    for path in (tmp_path / "pipe", tmp_path / "folder", Path("/dev/zero")):
        with pytest.raises(PatchFormatError, match="not a file"):
            load_patch(path)


@pytest.mark.parametrize(("code", "step", "most"), [("all", 1, 10), ("bits", 1, 11), ("gaps", 16, 30)])
def test_memory_per_entry(code: str, step: int, most: int, tmp_path: Path) -> None:
    n = 2**20
    first = 0 if code == "all" else 1
    mask = Mask.of({"a": TensorSpec("F32", (n,))}, {"a": np.arange(first, n, step)})
    path = write(tmp_path, patch_bytes(mask))
    assert Parts.of(path.read_bytes()).rows[0][3] == code
    tracemalloc.start()
    loaded = load_mask(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert loaded == mask
    assert peak < most * len(mask)
