from __future__ import annotations

from graft.recipes.summary import format_controls, format_differences, format_table, format_tables, summarise


def test_figures_that_not_every_seed_has_are_left_out() -> None:
    seeds = [{"models": {"base": {"ece": 0.1, "recovered_gain": 1.0}}}, {"models": {"base": {"ece": 0.3}}}]
    assert {key: round(item["mean"], 9) for key, item in summarise(seeds)["base"].items()} == {"ece": 0.2}


def test_the_table_to_the_letter() -> None:
    def seed(accuracy: float, nll: float, gain: float) -> dict[str, object]:
        graft = {"accuracy": accuracy, "nll": nll, "recovered_gain": gain, "ood": {"far": {"accuracy": 1.0}}}
        return {"models": {"base": {"accuracy": 0.5, "ece": 0.0625}, "graft": graft}}

    assert format_table(summarise([seed(0.75, 10.5, -0.25)]), ["far"]).splitlines() == [
        "| model | accuracy | gain  | ECE  | NLL    | Brier | far   | far ECE |",
        "|-------|----------|-------|------|--------|-------|-------|---------|",
        "| base  | .500     | –     | .062 | –      | –     | –     | –       |",
        "| graft | .750     | -.250 | –    | 10.500 | –     | 1.000 | –       |",
    ]
    both = format_table(summarise([seed(0.75, 10.5, 20.0), seed(0.85, 30.5, 0.0)]), [])
    assert "| .800 ± .635 | 10.000 ± 127.060 | –           | 20.500 ± 127.060 |" in both


def with_control(value: float, reached: float) -> dict[str, object]:
    """A seed with a graft, a control and a removal."""
    models = {
        "base": {"accuracy": 0.5, "ece": 0.1},
        "graft (random)": {"accuracy": 0.75, "ece": 0.05, "recovered_gain": 0.5},
        "interpolation": {"accuracy": 0.75, "ece": 0.0625, "recovered_gain": 0.5},
        "tuned without (random)": {"accuracy": 1.0, "ece": 0.125, "lost_gain": 0.0},
    }
    control = {"setting": "alpha", "value": value, "validation_accuracy": reached}
    return {"models": models, "controls": {"interpolation": control}}


def test_controls_and_removals_have_a_table_of_their_own() -> None:
    seeds = [with_control(0.25, 0.75)]
    assert (format_controls(summarise(seeds), seeds) or "").splitlines() == [
        "| model                  | setting    | validation | accuracy | gain | lost gain | ECE  | NLL | Brier |",
        "|------------------------|------------|------------|----------|------|-----------|------|-----|-------|",
        "| interpolation          | alpha 0.25 | .750       | .750     | .500 | –         | .062 | –   | –     |",
        "| tuned without (random) | –          | –          | 1.000    | –    | .000      | .125 | –   | –     |",
    ]
    seeds.append(with_control(0.75, 0.75))
    assert "| alpha 0.5 ± 3.2 | .750 ± .000 |" in (format_controls(summarise(seeds), seeds) or "")
    assert format_controls(summarise([{"models": {"base": {"ece": 0.1}}}]), []) is None


def test_differences_show_their_sign_and_interval() -> None:
    one = {"mean": 0.0625, "low": -0.01, "high": 0.12}
    two = {"mean": -0.25, "low": -0.3, "high": -0.125}
    assert format_differences({"tuned": {"test": {"accuracy": one, "ece": two}}}).splitlines() == [
        "| minus | accuracy            | ECE                  | NLL | Brier |",
        "|-------|---------------------|----------------------|-----|-------|",
        "| tuned | +.062 [-.010, .120] | -.250 [-.300, -.125] | –   | –     |",
    ]


def test_all_tables_together() -> None:
    seeds = [with_control(0.25, 0.75)]
    pooled = {"base": {"test": {"accuracy": {"mean": 0.25, "low": 0.1, "high": 0.5}}}}
    parts = format_tables("graft (random)", [], summarise(seeds), seeds, pooled).split("\n\n")
    assert len(parts) == 5
    assert [line.split("|")[1].strip() for line in parts[0].splitlines()[2:]] == ["base", "graft (random)"]
    assert parts[1].startswith("Controls, chosen on validation to match graft (random)")
    assert parts[2] == format_controls(summarise(seeds), seeds)
    assert parts[3].startswith("graft (random) minus each other model")
    assert parts[4] == format_differences(pooled)
    few = format_tables("base", [], {"base": {}}, [], pooled).split("\n\n")
    assert len(few) == 3
