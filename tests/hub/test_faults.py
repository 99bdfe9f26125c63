"""Each fault in each direction: all of it arrives or none, and what went wrong is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hub.client import Client
from tests.hub.faults import EVER, Outcome, Scenario, pull_scenarios, pull_under, push_scenarios, push_under
from tests.hub.local_hub import Fault, LocalHub


def judge(outcome: Outcome, scenario: Scenario) -> None:
    finished = outcome.finished
    assert outcome.left == ("whole" if scenario.whole else "nothing"), finished.err
    assert finished.code == (0 if scenario.whole else 1)
    assert "Traceback" not in finished.err
    assert "a bug" not in finished.err
    if finished.code:
        assert finished.err.rstrip("\n").endswith(outcome.said)  # the last line, and the only one of its kind
    if "Retry-After" in scenario.name and "first request" not in scenario.name:  # that one the client repeats at once
        assert max(finished.waits) >= 7


@pytest.mark.parametrize("scenario", push_scenarios(), ids=lambda scenario: scenario.name)
def test_push(hub: LocalHub, alice: Client, skill: Path, scenario: Scenario) -> None:
    name = f"push-{push_scenarios().index(scenario)}"
    judge(push_under(hub, alice, scenario, skill, name), scenario)
    if not scenario.whole:  # and when the Hub is well again, all is well
        assert push_under(hub, alice, Scenario("", Fault("none", "$^"), True), skill, name).left == "whole"


@pytest.mark.parametrize("scenario", pull_scenarios(), ids=lambda scenario: scenario.name)
def test_pull(hub: LocalHub, alice: Client, carol: Client, skill: Path, scenario: Scenario) -> None:
    if "alice/there" not in hub.repositories:
        alice("push", skill, "there", "--license", "mit")
    folder = f"pull-{pull_scenarios().index(scenario)}"
    carol.run("from huggingface_hub import constants as c; c.HF_HUB_DOWNLOAD_TIMEOUT = 0.7")
    judge(pull_under(hub, carol, scenario, "alice/there", folder), scenario)
    if not scenario.whole:
        well = pull_under(hub, carol, Scenario("", Fault("none", "$^"), True), "alice/there", folder)
        assert well.left == "whole", well.finished.err


def test_a_header_read_from_afar(hub: LocalHub, alice: Client, carol: Client, skill: Path) -> None:
    alice("push", skill, "far", "--license", "mit")
    where, bytes_of = "GET .*patch.safetensors", "GET /store"
    hub.order(Fault("status", where, 1, 503))
    finished = carol("inspect", "alice/far")
    assert (finished.code, finished.waits) == (0, [1])
    hub.order(Fault("status", "patch.safetensors", EVER, 503))
    assert "the Hub is in trouble (HTTP 503): try again later" in carol("inspect", "alice/far").line
    hub.order(Fault("short", bytes_of, EVER))
    assert "try again" in carol("inspect", "alice/far").line
    hub.order(Fault("short", bytes_of))  # then the whole file comes
    assert carol("inspect", "alice/far").code == 0
