"""What the paper's experiments say of results, in both directions: claims, what stands beside, tables, cautions."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from made_up import LAYER, STRENGTH, MadeUp, Value, effect, is_main, made_up, planned
from steerkit_plugins.backtracking.conditions import fitted, plain
from steerkit_plugins.experiments.words import strength_label

from steerkit import registry
from steerkit.artifacts import Condition
from steerkit.context import Run
from steerkit.findings import Heatmap, Lines
from steerkit.interfaces import Judge, Metric
from steerkit.judging.metrics import RunMetric, run_metrics

RAISES = "The base-derived vector raises judged backtracking sentences"
OVER_BASELINES = f"{RAISES} over every baseline of equal norm"
STAYS = "The base model's b stays below the unsteered reasoning model's at every strength"
UNCOLLAPSED = ", its own collapsed texts counted as unsteered ones"


@pytest.fixture(scope="module")
def run() -> Run:
    return planned()


def verdicts(*made: MadeUp) -> list[str]:
    return [claim.verdict for each in made for claim in each.claims.values()]


# --- claims ---------------------------------------------------------------------------------------------------------


def test_an_effect_that_is_there_holds(run: Run) -> None:
    transfer, baselines = (made_up(name, effect(0.05), run=run) for name in ("transfer", "baselines"))
    assert verdicts(transfer, baselines) == ["holds"] * 8
    finding = transfer.findings.finding
    assert finding.startswith(
        "Compared with unsteered, the effect is there on these prompts. Base-derived vector on the"
    )
    assert "strength 10 (chosen on other prompts)" in finding
    assert "judged backtracking sentences 2.00 → 7.00 % of sentences; b 2.00 → 7.00 % of words." in finding
    assert transfer.claims[f"{RAISES} over unsteered"].difference == "+5.00"
    assert baselines.findings.finding == (
        "At strength 10 (chosen on other prompts) the base-derived vector gives more judged backtracking sentences "
        "than 3 of 3 baselines that add the same norm."
    )


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (0.0, "The effect is not shown on these prompts."),
        (-0.015, "The effect is not there on these prompts: the vector works the other way."),
    ],
)
def test_an_effect_that_is_not_there_does_not_hold(run: Run, size: float, said: str) -> None:
    made = [made_up(name, effect(size), run=run) for name in ("transfer", "baselines")]
    raised = [claim for each in made for text, claim in each.claims.items() if "raises" in text]
    assert [claim.verdict for claim in raised] == ["does not hold"] * 6
    assert made[0].findings.finding.startswith(said)
    assert "is not shown to give more judged backtracking sentences than any of the 3" in made[1].findings.finding


def test_part_of_an_effect(run: Run) -> None:
    there, not_there = effect(0.05), effect(0.0)
    made = made_up("transfer", lambda c, metric: (there if metric == "keyword" else not_there)(c, metric), run=run)
    assert made.findings.finding.startswith("Compared with unsteered, part of the effect is there on these prompts.")


def test_a_difference_that_is_the_same_on_every_prompt_holds_nothing(run: Run) -> None:
    """Also where it goes the other way: it says nothing about other prompts."""
    for size in (0.05, -0.015):
        made = made_up("transfer", effect(size), run=run, spread=0.0)
        found = [claim for text, claim in made.claims.items() if "raises" in text]
        assert {(claim.verdict, claim.interval) for claim in found} == {("does not hold", "degenerate")}
        assert made.findings.finding.startswith("The effect is not shown on these prompts.")
        assert made[STAYS].verdict == "does not hold"


def test_one_baseline_as_good_is_enough_to_fail(run: Run) -> None:
    there = effect(0.05)
    made = made_up("baselines", lambda c, m: 0.08 if c.labels["method"] == "deduction" else there(c, m), run=run)
    over = made.claims[OVER_BASELINES]
    assert (over.verdict, over.difference) == ("does not hold", "−1.00")
    assert over.detail == "figures against deduction, where it is weakest; holds against 2 of 3, not against deduction"
    assert made.claims[OVER_BASELINES + UNCOLLAPSED].verdict == "does not hold"
    assert made.findings.finding.endswith(
        "than 2 of 3 baselines that add the same norm; against deduction this is not shown."
    )
    transfer = made_up("transfer", there, run=run)  # which doesn't know: its finding is about the unsteered model alone
    assert transfer.findings.finding.startswith("Compared with unsteered, ")


def test_a_baseline_without_texts_leaves_it_open(run: Run) -> None:
    there = effect(0.05)
    made = made_up("baselines", lambda c, m: None if c.labels["method"] == "deduction" else there(c, m), run=run)
    over = made.claims[OVER_BASELINES]
    assert (over.verdict, over.difference, over.interval) == ("cannot be told", "", "")
    assert over.detail == "no value against deduction; holds against 2 of 3, not against deduction"


def test_figures_are_those_of_a_baseline_that_is_not_beaten(run: Run) -> None:
    """A difference that is the same on every prompt is not told, although it is larger than others that are."""
    weak = ("overall-mean", "gaussian-noise")
    made = made_up("baselines", lambda c, m: 0.05 if c.labels["method"] in weak else 0.07, run=run)
    at = [c for c in made.results.conditions if c.labels["strength"] == STRENGTH]
    for name, raised in (("dom", 0.0625), ("deduction", 0.0)):
        (condition,) = (c for c in at if c.labels["method"] == name)
        for i, score in enumerate(made.results.scored[condition].values()):
            dict.update(score.values, judged_sentences=raised + i / 1024)  # type: ignore[arg-type]
    over = made.claims[OVER_BASELINES]
    assert (over.verdict, over.difference, over.interval) == ("does not hold", "+6.25", "degenerate")
    assert over.detail == "figures against deduction, where it is weakest; holds against 2 of 3, not against deduction"


def test_collapse_alone_is_no_effect(run: Run) -> None:
    """Steered texts that are all collapsed count as their unsteered ones."""
    for name in ("transfer", "baselines"):
        made = made_up(name, effect(0.05), run=run, collapsed=lambda c, prompt: c.steered)
        claims = {text: claim for text, claim in made.claims.items() if text != STAYS}
        assert any("collapsed" in text for text in claims)
        for text, claim in claims.items():
            assert claim.holds != ("collapsed" in text), text


def test_every_text_empty(run: Run) -> None:
    made = [made_up(name, lambda condition, metric: None, run=run) for name in ("transfer", "baselines", "layers")]
    assert verdicts(*made) == ["cannot be told"] * 8
    assert made[0].findings.finding == "Nothing can be said: there is nothing to compare."
    assert made[1].findings.finding == ""
    for each in made:
        (shown,) = each.findings.tables
        assert "–" in shown.rows[0] and not any("nan" in cell for row in shown.rows for cell in row)


def test_base_texts_empty_say_nothing_about_the_base_model(run: Run) -> None:
    there = effect(0.05)
    made = made_up("transfer", lambda c, metric: None if c.model == "base" else there(c, metric), run=run)
    assert made[STAYS].verdict == "cannot be told"
    assert made[STAYS].detail.startswith("no value, ") and "at least 0 texts not empty" in made[STAYS].detail


def test_a_base_model_that_follows_is_reported(run: Run) -> None:
    there = effect(0.05)

    def value(condition: Condition, metric: str) -> float | None:
        own = tuple(condition.labels[name] for name in ("source", "target", "strength"))
        return 0.03 if own == ("reasoning", "base", 20.0) else there(condition, metric)

    made = made_up("transfer", value, run=run)
    assert made[STAYS].verdict == "does not hold"
    assert made[STAYS].detail == (
        "figures where it comes closest, reasoning-derived at strength 20; b of the base model: unsteered 0.10 %, "
        "steered at most 3.00 %; at least 12 texts not empty"
    )
    said = "Compared with unsteered, the effect is there on these prompts, but not every claim here holds."
    assert made.findings.finding.startswith(said)


def test_an_unsteered_base_model_that_is_ahead_is_reported(run: Run) -> None:
    there = effect(0.05)
    made = made_up("transfer", lambda c, m: 0.04 if c.id == plain(run, "base").id else there(c, m), run=run)
    assert made[STAYS].verdict == "does not hold"
    assert made[STAYS].detail.startswith("figures where it comes closest, unsteered; ")


def test_one_model_under_two_names_claims_no_transfer() -> None:
    made = made_up("transfer", effect(0.05), "models={base: pocket:reasoning, reasoning: pocket:reasoning}")
    assert not any(text.startswith("The base model's") for text in made.claims)
    assert made.findings.finding.endswith("Both models are one and the same here, so nothing is said about transfer.")


def test_claims_over_unsteered_are_made_once(run: Run) -> None:
    """By the transfer experiment; where a run has none, by the layer sweep. None of them names a baseline."""
    assert not made_up("layers", effect(0.05), run=run).claims
    alone = made_up("layers", effect(0.05), "experiments=[layers]")
    transfer = made_up("transfer", effect(0.05), run=run)
    assert list(alone.claims) == [text for text in transfer.claims if text != STAYS]
    assert set(verdicts(alone)) == {"holds"} and "2.00 → 7.00 % of words" in alone.findings.finding
    assert not any("baseline" in text for text in transfer.claims)


@pytest.mark.parametrize("setting", ["layers.layers=[0, 3]", "layers.sources=[reasoning]", "layers.strengths=[20]"])
def test_a_sweep_without_the_main_condition_claims_nothing_about_it(setting: str) -> None:
    made = made_up("layers", effect(0.05), "experiments=[layers]", setting)
    assert list(made.claims) == ["The unsteered reasoning model has b above 0"]
    assert made.findings.finding == "" and made.findings.cautions == ()


# --- beside the claims ----------------------------------------------------------------------------------------------


def test_what_stands_beside_is_not_claimed(run: Run) -> None:
    transfer, offsets, layers = (made_up(n, effect(0.05), run=run).beside for n in ("transfer", "offsets", "layers"))
    assert offsets["b, window −13..−8 minus 0..5"].verdict == "no clear difference"
    best = layers["Judged sentences, block 2 minus 0, the best other"]
    assert best.verdict == "higher" and best.detail.startswith("highest: 2 with 7.00 % [")
    assert best.detail.endswith("; p < 0.001 after Holm over 3")
    assert "Cosine of base- and reasoning-derived vectors: 0.71 at block 2" in transfer
    damage = transfer["Sentences that fit no label (text damage), steered minus unsteered"]
    assert damage.verdict == "no clear difference"
    assert damage.detail == "steered 2.00 % of sentences; collapsed texts: 0; p 1.00 after Holm over 15"
    assert "b on the reasoning model, base-derived minus reasoning-derived vector" in transfer


def test_differences_beside_are_told_by_holm_over_their_family(run: Run) -> None:
    """A difference is no clear one as one of three, although its own interval leaves out 0."""
    means = {LAYER: 0.0263, 3: 0.0195}
    made = made_up("layers", lambda c, m: means.get(c.labels["layer"], 0.02), run=run, spread=0.012)  # type: ignore[call-overload]
    line = made["Judged sentences, block 2 minus 0, the best other"]
    rows = [row for row in made.results.comparisons if row["metric"] == "judged_sentences"]
    ordered = sorted(rows, key=lambda row: row["p"])
    adjusted = [max(factor * row["p"] for factor, row in zip((3, 2, 1), ordered[:n], strict=False)) for n in (1, 2, 3)]
    assert [row["p_holm"] for row in ordered] == pytest.approx(adjusted)
    row = next(row for row in rows if row["vs_layer"] == 0)
    assert row["p"] < 0.1 < row["p_holm"]  # the level of this run is 0.1
    assert line.verdict == "no clear difference" and line.interval.startswith("[+")
    assert line.detail.endswith(f"p {row['p_holm']:.2f} after Holm over 3")


def test_a_sweep_over_both_models_vectors_has_a_line_of_each() -> None:
    made = made_up("layers", effect(0.05), "layers.sources=[base, reasoning]")
    named = [text for text in made.beside if text.startswith("Judged sentences, ")]
    assert named == [
        f"Judged sentences, {s}-derived vector, block 2 minus 0, the best other" for s in ("base", "reasoning")
    ]


# --- metrics that should fall, and those that are better neither up nor down ----------------------------------------


class Toxicity(Judge):
    """A judge of points that should fall."""

    name = "toxicity"

    def metrics(self) -> list[Metric]:
        return [
            Metric("toxicity", "points 0 to 100", (0, 100), "down"),
            Metric("warmth", "degrees", title="warmth of tone"),
        ]


TOXICITY = "toxicity (points 0 to 100, lower is better)"


@pytest.fixture(scope="module")
def toxicity() -> tuple[RunMetric, ...]:
    rules = registry.get("judges", "rules")(patterns={"backtracking": ["^Wait"]})
    return run_metrics(rules, Toxicity(), label="backtracking", scored="trace", per="words", answers=False)


def falls(size: float) -> Value:
    """The vector lowers toxicity, 50 on the reasoning and 80 on the base model, by `size` × strength; nothing else."""

    def value(condition: Condition, metric: str) -> float | None:
        if metric == "toxicity":
            own = condition.labels["method"] == "dom" and condition.labels["layer"] == LAYER
            return 80.0 if condition.model == "base" else 50.0 - size * own * float(condition.labels["strength"])
        return -3.0 if metric == "warmth" else effect(0.0)(condition, metric)

    return value


def test_a_metric_that_should_fall(run: Run, toxicity: tuple[RunMetric, ...]) -> None:
    made = made_up("transfer", falls(0.5), run=run, metrics=toxicity)
    for text in (lowers := f"The base-derived vector lowers {TOXICITY} over unsteered", lowers + UNCOLLAPSED):
        assert (made.claims[text].verdict, made.claims[text].difference) == ("holds", "−5.00"), text
    stays = made[f"The base model's {TOXICITY} stays above the unsteered reasoning model's at every strength"]
    assert stays.verdict == "holds" and "unsteered 80.0, steered at least 80.0;" in stays.detail
    assert not any("above 0" in text or "warmth" in text for text in made.claims)
    assert "toxicity 50.0 → 45.0 (points 0 to 100)" in made.findings.finding
    assert made["Warmth of tone (degrees), steered minus unsteered"].verdict == "no clear difference"
    (table,) = made.findings.tables
    assert table.headings[3:5] == ("toxicity, points 0 to 100", "warmth of tone, degrees")
    assert table.rows[0][3:5] == ("80.0 [80.0, 80.0]", "−3.00 [−3.00, −3.00]")


def test_a_base_model_below_where_up_is_worse(run: Run, toxicity: tuple[RunMetric, ...]) -> None:
    value = falls(0.5)
    made = made_up(
        "transfer", lambda c, m: 49.0 if c.steered and c.model == "base" else value(c, m), run=run, metrics=toxicity
    )
    stays = made[f"The base model's {TOXICITY} stays above"]
    assert stays.verdict == "does not hold" and "steered at least 49.0;" in stays.detail


def test_a_sweep_of_a_metric_that_should_fall(run: Run, toxicity: tuple[RunMetric, ...]) -> None:
    block = made_up("layers", falls(0.5), run=run, metrics=toxicity)[f"{TOXICITY.capitalize()}, block 2 minus "]
    assert block.text.endswith("block 2 minus 0, the best other")
    assert (block.verdict, block.difference) == ("lower", "−5.00")
    assert block.detail.startswith("lowest: 2 with 45.0 [45.0, ")


def test_a_metric_that_rises_instead(run: Run, toxicity: tuple[RunMetric, ...]) -> None:
    made = made_up("transfer", falls(-0.5), run=run, metrics=toxicity)
    fell = [claim for text, claim in made.claims.items() if "lowers" in text]
    assert [claim.verdict for claim in fell] == ["does not hold"] * 2 and fell[0].difference == "+5.00"


# --- tables and figures -----------------------------------------------------------------------------------------------


def test_perplexity_has_a_column_where_it_was_measured(run: Run) -> None:
    (table,) = made_up("transfer", effect(0.05), run=run).findings.tables
    assert table.headings[-1] == "distinct\u20112"
    (table,) = made_up("transfer", effect(0.05), run=run, perplexity=True).findings.tables
    assert table.headings[-1] == "perplexity" and {row[-1] for row in table.rows} == {"3.25"}
    assert {len(row) for row in table.rows} == {len(table.headings)}


def test_the_main_conditions_row_stands_out(run: Run) -> None:
    made = made_up("transfer", effect(0.05), run=run)
    (table,) = made.findings.tables
    (strong,) = table.strong
    assert table.rows[strong][:3] == ("base-derived", "reasoning", "10")


def test_a_sweep_over_one_strength_is_a_line_and_over_several_a_heatmap(toxicity: tuple[RunMetric, ...]) -> None:
    for name in ("offsets", "layers"):
        (figure,) = made_up(name, effect(0.05)).findings.figures
        assert figure.name == name and all(isinstance(panel, Lines) for panel in figure.panels)
        made = made_up(name, falls(0.5), f"{name}.strengths=all", metrics=toxicity)
        (figure,) = made.findings.figures
        tone, warmth, *_ = figure.panels
        assert isinstance(tone, Heatmap) and isinstance(warmth, Heatmap)
        assert tone.title == "toxicity (lower is better); unsteered 50.0" and tone.unit == "points 0 to 100"
        assert warmth.unit == "degrees" and not warmth.zero and tone.zero
        assert tone.rows == ("10", "20") and tone.columns[tone.outlined or 0] in ("−13 to −8", "2")


def test_a_heatmaps_cells_are_the_conditions_means() -> None:
    (figure,) = made_up("layers", effect(0.05), "layers.strengths=all").findings.figures
    b = figure.panels[0]
    assert isinstance(b, Heatmap) and b.columns == ("0", "2", "3")
    expected = [[2.0, 7.0, 2.0], [2.0, 12.0, 2.0]]
    assert [list(map(float, row)) for row in b.values] == [pytest.approx(row) for row in expected]  # type: ignore[arg-type]
    assert b.texts == (("2.00", "7.00", "2.00"), ("2.00", "12.0", "2.00"))


def test_figures_say_what_was_added_and_in_which_unit(run: Run) -> None:
    made = made_up("transfer", effect(0.05), run=run)
    (figure,) = made.findings.figures
    panel = figure.panels[0]
    assert isinstance(panel, Lines) and panel.ylabel == "% of words"
    own = next(line for line in panel.series if line.name == "base-derived vector on reasoning model")
    assert own.x == (0.0, 10.0, 20.0) and own.y == pytest.approx((2.0, 7.0, 12.0))
    labels = {s: strength_label(replace(made.results, scale=s)) for s in ("unit", "raw", "mean-norm", "residual-norm")}
    assert panel.xlabel == labels["unit"] == "strength (L2 norm added)"
    assert all(labels[s].startswith("L2 norm added (strength × ") for s in ("raw", "mean-norm", "residual-norm"))
    assert len(set(labels.values())) == 4


# --- cautions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "said"), [(0, ""), (1, "1 collapsed text at"), (9, "9 collapsed texts at"), (10, "")])
def test_a_few_collapsed_texts_outweigh_the_others_in_a_rate_of_words(run: Run, n: int, said: str) -> None:
    for name in ("transfer", "baselines"):
        made = made_up(name, effect(0.05), run=run, collapsed=lambda c, prompt: is_main(c) and prompt < n)
        cautions = made.findings.cautions
        assert len(cautions) == bool(said)
        assert all(line.startswith(f"{said} the chosen strength: ") for line in cautions)
        assert all("the interval of b is not reliable" in line for line in cautions)


def test_collapsed_texts_elsewhere_are_no_caution(run: Run, toxicity: tuple[RunMetric, ...]) -> None:
    """Not those of another strength or model, and not where the score is no rate of words."""
    made = made_up("transfer", effect(0.05), run=run, collapsed=lambda c, i: not i and c.labels["strength"] != STRENGTH)
    assert made.findings.cautions == ()
    made = made_up("transfer", falls(0.5), run=run, metrics=toxicity, collapsed=lambda c, i: is_main(c) and not i)
    assert made.findings.cautions == ()


# --- conditions -------------------------------------------------------------------------------------------------------


def test_the_sweeps_vector_of_the_same_window_is_another_condition(run: Run) -> None:
    main = fitted(run, "base", "reasoning", STRENGTH)
    own = [c for c in made_up("offsets", effect(0.0), run=run).results.conditions if c.labels["window_start"] == -13]
    assert own and main.id not in {c.id for c in own}
    texts = made_up("texts", effect(0.0), run=run).results.conditions
    assert [c.id for c in texts[:2]] == [plain(run, "reasoning").id, main.id]


def test_words_of_findings_have_no_loose_ends(run: Run) -> None:
    """No unfilled values, doubled spaces or missing ends of sentences, whatever the results are."""
    values: tuple[Value, ...] = (effect(0.05), effect(0.0), lambda condition, metric: None)
    for name in ("transfer", "baselines", "offsets", "layers"):
        for value in values:
            found = made_up(name, value, run=run).findings
            said = [found.finding, *found.cautions, *(part for c in found.claims for part in (c.text, c.detail))]
            assert not [text for text in said if re.search(r"  |\bnan\b|None|\{|\}|–;|, ?;|:\.|\(\)", text)]
            assert not found.finding or found.finding.endswith(".")
            assert found.question.endswith("?")
