from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import pytest

from graft.errors import ConfigError
from graft.registry import Entry, Registry
from graft.specs.adapter import AdapterSpec
from graft.specs.block import Block
from graft.specs.fusion import FusionSpec
from graft.specs.importance import ImportanceSpec
from graft.specs.localizable import LocalizableSpec
from graft.specs.localize import CandidateSpec, LearnSpec, LocalizeSpec, PaperSpec
from graft.specs.ranges import Above, AtLeast, Between, OneOf, Range, Within, check_seed
from graft.specs.reader import read_config
from graft.specs.record import RecordSpec
from graft.specs.regularize import RegularizeSpec
from graft.specs.train import TrainSpec

SHAPES = Registry("shape", [Entry(name="square", help="four sides", target="math:sqrt")])


@dataclass(frozen=True)
class Plain(Block):
    rate: Annotated[float, Above(0)] = 1.0
    steps: Annotated[int, AtLeast(1)] | None = None
    shares: tuple[Annotated[float, Above(0, most=1)], ...] = ()
    shape: Annotated[str, OneOf(SHAPES)] = "square"


@pytest.mark.parametrize(
    ("extent", "inside", "outside"),
    [
        (Above(0), (1e-9, 5, math.inf), (0, -1, math.nan)),
        (Above(0, most=1), (0.5, 1), (0, 1.5, math.nan)),
        (AtLeast(1), (1, 2.5), (0.99, math.nan)),
        (Between(0, 3), (0, 3), (-1, 4)),
        (Within(0, 0.5), (0, 0.25, 0.5), (-1e-9, 0.6, math.inf, math.nan)),
        (OneOf(SHAPES), ("square",), ("circle", 3, ["square"])),
    ],
)
def test_a_range_holds_what_it_says(extent: Range, inside: tuple[object, ...], outside: tuple[object, ...]) -> None:
    for value in inside:
        extent.check("key", value)
    for value in outside:
        with pytest.raises(ValueError, match=f"key must be {extent}"):
            extent.check("key", value)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"rate": 0}, "rate must be above 0"),
        ({"rate": float("nan")}, "rate must be above 0"),
        ({"steps": 0}, "steps must be 1 or more"),
        ({"shares": (0.5, 2.0)}, r"shares\[1\] must be above 0 and at most 1"),
        ({"shape": "circle"}, "shape must be one of square, not 'circle'"),
    ],
)
def test_a_block_refuses_the_same_from_python_and_from_yaml(values: dict[str, object], line: str) -> None:
    assert read_config(Plain, {"rate": 0.5, "steps": None, "shares": [1], "shape": "square"}, "f").shares == (1.0,)
    with pytest.raises(ValueError, match=f"^{line}$"):
        Plain(**values)  # type: ignore[arg-type]
    if values.get("rate") is not None and math.isnan(float(str(values["rate"]))):
        return  # no number to YAML's reader
    with pytest.raises(ConfigError, match=f"^f: {line.replace('shape must', 'shape: must')}$"):
        read_config(Plain, values, "f")


def test_a_name_that_is_added_later_is_in_range() -> None:
    with SHAPES.extended(Entry(name="circle", help="round", target="math:pi")):
        assert Plain(shape="circle").shape == "circle"
        assert read_config(Plain, {"shape": "circle"}, "f").shape == "circle"
    with pytest.raises(ValueError, match="one of square, not"):
        Plain(shape="circle")


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: TrainSpec(lr=0), "lr must be above 0"),
        (lambda: TrainSpec(batch_size=2**32), "batch_size must be a whole number from 1 to 2147483648, not 4294967296"),
        (lambda: TrainSpec(weight_decay=-1), "weight_decay must be 0 or more"),
        (lambda: TrainSpec(seed=-1), "seed must be a whole number from 0 to 4294967295, not -1"),
        (lambda: TrainSpec(stop_at=1.5, check_every=1), "stop_at must be from 0 to 1"),
        (lambda: LocalizableSpec(epochs=0), "epochs must be above 0"),
        (lambda: RecordSpec(every=0), "every must be 1 or more"),
        (lambda: RecordSpec(xi=0), "xi must be above 0"),
        (lambda: RegularizeSpec(strength=-1), "strength must be 0 or more"),
        (lambda: LocalizeSpec(points=0), "points must be 1 or more"),
        (lambda: LearnSpec(prior=-1), "prior must be 0 or more"),
        (lambda: PaperSpec(steps=0), "steps must be above 0"),
        (lambda: CandidateSpec(multiple=0), "multiple must be 1 or more"),
        (lambda: FusionSpec(core=0), "core must be above 0 and at most 1"),
        (lambda: ImportanceSpec(micro_batch=0), "micro_batch must be 1 or more"),
        (lambda: AdapterSpec(rank=0), "rank must be 1 or more"),
        (lambda: check_seed(2**32), "seed must be a whole number from 0 to 4294967295, not 4294967296"),
    ],
)
def test_every_block_refuses_what_is_out_of_range(make: Callable[[], object], line: str) -> None:
    with pytest.raises(ValueError, match=f"^{line}$"):
        make()
