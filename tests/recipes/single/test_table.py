from __future__ import annotations

import dataclasses
from typing import Any

from graft.evaluate.registry import METRICS, MetricEntry
from graft.recipes.single.table import (
    summarize,
    tabulate_areas,
    tabulate_controls,
    tabulate_differences,
    tabulate_models,
    tabulate_run,
)
from graft.results.areas import describe_range
from graft.results.figures import ModelFigures
from graft.results.models import name_models
from graft.results.seeds import Control, CurvePoint, Diagnosis, SingleSeed
from graft.results.tables import TextTable, to_markdown

MODELS = name_models(["random"])


def seed_of(content: dict[str, Any]) -> SingleSeed:
    """A seed that holds little."""
    models = {name: ModelFigures.of(report) for name, report in content["models"].items()}
    controls = {name: Control(**control) for name, control in content.get("controls", {}).items()}
    return SingleSeed(0, 1, models, controls=controls)


def lines_of(table: TextTable | None) -> list[str]:
    assert table is not None
    return table.to_markdown().splitlines()


def test_figures_that_not_every_seed_has_are_left_out() -> None:
    seeds = [seed_of({"models": {"base": found}}) for found in ({"ece": 0.1, "recovered_gain": 1.0}, {"ece": 0.3})]
    assert {key: round(item["mean"], 9) for key, item in summarize(seeds)["base"].items()} == {"ece": 0.2}


def test_the_table_to_the_letter() -> None:
    def seed(accuracy: float, nll: float, gain: float) -> SingleSeed:
        graft = {"accuracy": accuracy, "nll": nll, "recovered_gain": gain, "ood": {"far": {"accuracy": 1.0}}}
        return seed_of({"models": {"base": {"accuracy": 0.5, "ece": 0.0625}, "graft": graft}})

    assert lines_of(tabulate_models(summarize([seed(0.75, 10.5, -0.25)]), ["far"])) == [
        "| model | accuracy | gain  | ECE  | NLL    | Brier | far   | far ECE |",
        "|-------|----------|-------|------|--------|-------|-------|---------|",
        "| base  | .500     | –     | .062 | –      | –     | –     | –       |",
        "| graft | .750     | -.250 | –    | 10.500 | –     | 1.000 | –       |",
    ]
    both = tabulate_models(summarize([seed(0.75, 10.5, 20.0), seed(0.85, 30.5, 0.0)]), []).to_markdown()
    assert "| .800 ± .635 | 10.000 ± 127.062 | –           | 20.500 ± 127.062 |" in both


def with_control(value: float, reached: float | None) -> SingleSeed:
    """A seed with a graft, a control and a removal."""
    models = {
        "base": {"accuracy": 0.5, "ece": 0.1},
        "graft (random)": {"accuracy": 0.75, "ece": 0.05, "recovered_gain": 0.5},
        "interpolation": {"accuracy": 0.75, "ece": 0.0625, "recovered_gain": 0.5},
        "tuned without (random)": {"accuracy": 1.0, "ece": 0.125, "lost_gain": 0.0},
    }
    control = {"setting": "alpha", "value": value, "validation_accuracy": reached}
    return seed_of({"models": models, "controls": {"interpolation": control}})


def test_controls_and_removals_have_a_table_of_their_own() -> None:
    seeds = [with_control(0.25, 0.75)]
    assert lines_of(tabulate_controls(summarize(seeds), MODELS, seeds)) == [
        "| model                  | setting    | validation | accuracy | gain | lost gain | ECE  | NLL | Brier |",
        "|------------------------|------------|------------|----------|------|-----------|------|-----|-------|",
        "| interpolation          | alpha 0.25 | .750       | .750     | .500 | –         | .062 | –   | –     |",
        "| tuned without (random) | –          | –          | 1.000    | –    | .000      | .125 | –   | –     |",
    ]
    seeds.append(with_control(0.75, 0.75))
    assert "| alpha 0.5 ± 3.2 | .750 ± .000 |" in "\n".join(
        lines_of(tabulate_controls(summarize(seeds), MODELS, seeds))
    )
    assert tabulate_controls(summarize([seed_of({"models": {"base": {"ece": 0.1}}})]), MODELS, []) is None


def test_an_accuracy_on_validation_that_a_seed_lacks_is_a_dash() -> None:
    seeds = [with_control(0.25, 0.75), with_control(0.25, None)]
    table = lines_of(tabulate_controls(summarize(seeds), MODELS, seeds))
    assert [cell.strip() for cell in table[2].split("|")[1:4]] == ["interpolation", "alpha 0.25 ± 0", "–"]


def test_differences_show_their_sign_and_interval() -> None:
    one = {"mean": 0.0625, "low": -0.01, "high": 0.12}
    two = {"mean": -0.25, "low": -0.3, "high": -0.125}
    assert lines_of(tabulate_differences({"tuned": {"test": {"accuracy": one, "ece": two}}})) == [
        "| minus | accuracy            | ECE                  | NLL | Brier |",
        "|-------|---------------------|----------------------|-----|-------|",
        "| tuned | +.062 [-.010, .120] | -.250 [-.300, -.125] | –   | –     |",
    ]


def test_all_tables_together() -> None:
    seeds = [with_control(0.25, 0.75)]
    pooled = {"base": {"test": {"accuracy": {"mean": 0.25, "low": 0.1, "high": 0.5}}}}
    parts = to_markdown(tabulate_run("graft (random)", [], summarize(seeds), MODELS, seeds, pooled)).split("\n\n")
    assert len(parts) == 5
    assert [line.split("|")[1].strip() for line in parts[0].splitlines()[2:]] == ["base", "graft (random)"]
    assert parts[1].startswith("Controls, chosen on validation to match graft (random)")
    assert parts[2].splitlines() == lines_of(tabulate_controls(summarize(seeds), MODELS, seeds))
    assert parts[3].startswith("graft (random) minus each other model")
    assert parts[4].splitlines() == lines_of(tabulate_differences(pooled))
    few = tabulate_run("base", [], {"base": {}}, MODELS, [], pooled)
    assert len(few) == 3


def test_a_graft_that_is_much_of_all_that_moved_is_said_to_be() -> None:
    def shown(n_scope: float | None) -> str:
        diagnosis = None if n_scope is None else Diagnosis((), {"changed": 0.25, "n_scope": n_scope})
        seeds = [dataclasses.replace(with_control(0.25, 0.75), k=k, diagnosis=diagnosis) for k in (80, 120)]
        return to_markdown(tabulate_run("graft (random)", [], summarize(seeds), MODELS, seeds, {}))

    assert "Tuning moved about 400 weights in scope. A graft holds 25 % of them, a random one too" in shown(1600)
    assert "Tuning moved" not in shown(1_600_000)
    assert "Tuning moved" not in shown(None)


def test_a_new_metric_has_its_column() -> None:
    toy = MetricEntry(name="doubt", help="nothing", target="a:b", label="doubt", higher_is_better=False)
    base = seed_of({"models": {"base": {"accuracy": 0.5, "doubt": 0.25}}})
    with METRICS.extended(toy):
        lines = lines_of(tabulate_models(summarize([base]), []))
    assert lines[0].split() == [
        "|",
        "model",
        "|",
        "accuracy",
        "|",
        "gain",
        "|",
        "ECE",
        "|",
        "NLL",
        "|",
        "Brier",
        "|",
        "doubt",
        "|",
    ]
    assert lines[2].endswith("| .250  |")


def test_areas_over_the_densities_that_all_seeds_have() -> None:
    def seed(shift: float, *more: float, lost: float | None = None) -> SingleSeed:
        densities = (1e-4, 1e-3, 1e-2, *more)
        numbers = {} if lost is None else {"lost_gain": lost}
        points = [
            CurvePoint("magnitude", d, 1, {"recovered_gain": shift + i, **numbers}) for i, d in enumerate(densities)
        ]
        return SingleSeed(0, 1, {}, curve=tuple(points))

    assert lines_of(tabulate_areas([seed(0, 1e-1), seed(0)])) == [
        "| method    | sufficiency  |",
        "|-----------|--------------|",
        "| magnitude | 1.000 ± .000 |",
    ]
    both = lines_of(tabulate_areas([seed(-0.5, lost=0.25)]))
    assert both[0].split() == ["|", "method", "|", "sufficiency", "|", "necessity", "|"]
    assert both[2].split() == ["|", "magnitude", "|", ".500", "|", ".250", "|"]
    assert tabulate_areas([seed(0), SingleSeed(1, 1, {})]) is None  # a seed without a curve


def test_areas_of_all_methods_are_over_the_same_densities() -> None:
    gains = {1e-5: 0.0, 1e-4: 0.5, 1e-3: 1.0, 1e-2: 1.0}
    points = [CurvePoint("magnitude", density, 1, {"recovered_gain": gain}) for density, gain in gains.items()]
    points += [dataclasses.replace(point, method="attribution") for point in points if point.density > 1e-5]
    points.append(CurvePoint("random", 1e-3, 1, {"recovered_gain": 0.0}))  # has no area, and takes none from others
    seeds = [SingleSeed(0, 1, {}, curve=tuple(points))] * 2
    rows = [line.split() for line in lines_of(tabulate_areas(seeds))[2:]]
    assert rows == [["|", name, "|", ".875", "±", ".000", "|"] for name in ("magnitude", "attribution")]
    assert describe_range(seeds) == "from 0.0001 to 0.01"
    lost = [CurvePoint("random", density, 1, {"lost_gain": 0.5}) for density in gains]
    seeds = [SingleSeed(0, 1, {}, curve=(*points, *lost))]
    assert describe_range(seeds) == "from 0.0001 to 0.01 for sufficiency, from 1e-05 to 0.01 for necessity"
