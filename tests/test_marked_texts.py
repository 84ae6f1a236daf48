"""Texts to read: which ones, what is marked in them, and the figures of single texts and pooled ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_up import effect, made_up, planned
from steerkit_plugins.backtracking import agreement
from steerkit_plugins.backtracking.lens import Lens
from steerkit_plugins.backtracking.projection import Projection
from steerkit_plugins.backtracking.texts import few_pooled, marks_by, windows_before

from steerkit.artifacts import Condition
from steerkit.findings import Findings, Lines, Marked, Piece
from steerkit.report.figures import render

PATTERNS = "span_judge={name: rules, patterns: {backtracking: ['^Wait'], deduction: ['^So']}}"


def shown(text: str, *settings: str) -> tuple[Findings, list[Marked]]:
    """What the experiment on texts says of a run whose texts are all this one, and those of its first prompt."""
    found = made_up("texts", effect(0.05), PATTERNS, *settings, text=text).findings
    return found, list(found.texts[0].prompts[0][1])


def test_what_is_marked() -> None:
    found, (unsteered, steered, baseline) = shown("Wait, no. Next.</think> It is 4.")
    assert [each.title for each in (unsteered, steered)] == ["unsteered", "base-derived vector, strength 10"]
    assert baseline.title.startswith("strongest baseline: ") and baseline.title.endswith(", same norm")
    assert steered.pieces == (
        Piece(text="Wait,", filled=True, boxed=True),
        Piece(text=" no.", filled=True),
        Piece(text=" Next."),
        Piece(text="</think> It is 4.", grey=True),
    )
    assert (steered.facts, steered.flags) == ("1 of 2 sentences judged backtracking, 1 counted", ())
    (texts,) = found.texts
    assert len(texts.prompts) == 12 and texts.prompts[0][2] == "judged sentences: 1 / 1 / 1"
    legend = "illed: judged backtracking; boxed: counted in b; underlined: tokens −13..−8 before such a sentence"
    assert f"F{legend}." in texts.about and found.figures[0].heading == f"f{legend}"
    assert (
        "unsteered, with the base-derived vector, and with the baseline that has the most judged sentences."
        in texts.about
    )


def test_the_strongest_baseline_is_the_one_with_the_most_judged_sentences() -> None:
    def value(condition: Condition, metric: str) -> float:
        return {"gaussian-noise": 0.05, "dom": 0.09}.get(str(condition.labels["method"]), 0.02)

    found = made_up("texts", value, PATTERNS, text="Wait.").findings
    assert found.texts[0].prompts[0][1][2].title == "strongest baseline: gaussian-noise, same norm"


def test_nothing_is_said_of_baselines_that_were_not_run() -> None:
    found, texts = shown("Wait, no.", "experiments=[transfer, texts]")
    assert len(texts) == 2 and "baseline" not in found.texts[0].about
    assert "Shaded" not in found.texts[0].about


def test_collapsed_and_empty_texts_are_flagged() -> None:
    assert {text.flags for text in shown("wait " * 8)[1]} == {("collapsed",)}
    assert {text.flags for text in shown("</think> 4")[1]} == {("empty",)}


def test_windows_before_a_sentence_are_underlined() -> None:
    """A token is a character here."""
    text = "x" * 20 + ". Wait, no."
    _, (_, steered, *_) = shown(text)
    before, sentence = text.index("Wait") - 13, text.index("Wait")
    assert "".join(piece.text for piece in steered.pieces) == text
    assert [piece.text for piece in steered.pieces if piece.underlined] == [text[before : sentence - 7]]


def test_windows_are_marked_as_tokens_overlap_characters() -> None:
    """The sentence at 4 begins in token 2, which also holds the space before it; tokens 3 and 4 continue its √."""
    text, tokens = "a b √2. So", ((0, 1, 3, 4, 4, 5, 6, 7), (3, 4))
    assert windows_before([(4, 7)], tokens, (-1, -1), len(text)) == [(1, 3)]
    assert windows_before([(4, 7)], tokens, (0, 0), len(text)) == [(3, 5)]  # the half is marked whole
    assert windows_before([(4, 7)], tokens, (-3, -1), len(text)) == []
    assert windows_before([(7, 10)], tokens, (0, 0), len(text)) == [(7, 10)]
    assert windows_before([(0, 1)], ((), ()), (0, 0), 0) == []


@pytest.mark.parametrize(
    ("judge", "counted"),
    [
        ("{name: keyword, keywords: ['**wait**']}", ["Wait,", "wait."]),
        ("{name: keyword, keywords: [wait], substring: true}", ["Wait,", "wait.", "waiter."]),
        ("{name: keyword, keywords: ['hold on', 等等]}", ["Hold on", "等等"]),
        ("{name: rules, patterns: {backtracking: ['Wait']}}", None),
    ],
)
def test_boxed_is_what_the_score_judge_counts(judge: str, counted: list[str] | None) -> None:
    text = "Wait, wait. A waiter. Hold on — 等等，不对。"
    run = planned(f"score_judge={judge}")
    [places] = marks_by(run, [text])
    assert (None if places is None else [text[start:end] for start, end in places]) == counted


def test_projections_shade_the_unsteered_text_alone(tmp_path: Path) -> None:
    run = planned(PATTERNS, "experiments=[transfer, projection, texts]", f"output_dir={tmp_path}")
    row = {"id": "p000-0", "text": "abcd", "starts": [0, 1, 2, 3], "values": [-1.0, 2.0, 1.0, 2.0]}
    (tmp_path / "projections.jsonl").write_text(json.dumps(row) + "\n")
    made = made_up("texts", effect(0.05), run=run, text="abcd")
    found = run.experiment("texts").findings(made.run, made.results, *made.given, Findings(title=""))
    unsteered, steered = found.texts[0].prompts[0][1]
    assert [(piece.text, piece.shade) for piece in steered.pieces] == [("abcd", 0)]
    assert [(p.text, p.shade) for p in unsteered.pieces] == [("a", 0), ("b", 4), ("c", 2), ("d", 4)]
    assert "Shaded: the higher an unsteered token projects on the vector, the darker." in found.texts[0].about


# --- figures of single texts and pooled ones -------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "<b>Wait,"])
def test_projections_of_empty_texts_and_of_one_token_are_drawn_and_say_so(text: str) -> None:
    run = planned("experiments=[transfer, projection]", "projection.within=[1, 2]", "resamples=100")
    made = made_up("projection", effect(0.0), run=run, text=text)
    experiment = run.experiment("projection")
    assert isinstance(experiment, Projection)
    values = [0.5] if text else []
    rows = [{"id": "p-0", "text": text, "starts": [0] * bool(text), "values": values, "begins": []}]
    found = [experiment._detect(made.run, "backtracking", rows, n) for n in (1, 2)]
    assert [(row["n_hits"], row["n_tokens"]) for row in found] == [(0, len(values))] * 2
    figure = experiment._figure(made.run, rows, found, made.results)
    marked, curve = figure.panels
    assert isinstance(marked, Marked) and isinstance(curve, Lines)
    assert "".join(piece.text for piece in marked.pieces) == text
    assert not curve.series[0].x and curve.empty.startswith("no value: no token is followed by such a sentence")
    [svg] = render(figure, "svg")
    assert b"no value" in svg
    assert experiment._beside(made.run, found, "backtracking", "90 %") == ()
    assert "read by the base model" in figure.caption and "base-derived vector" in figure.caption


def test_pooled_figures_of_few_texts_are_named() -> None:
    (few,) = few_pooled("agreement of judges", [120, 99, 128], "prompts")
    assert few.startswith("Few prompts behind a pooled figure: agreement of judges rests on 99. With fewer than 100, ")
    assert few_pooled("the projection's AUROC", [100], "texts") == few_pooled("nothing", [], "texts") == ()


def test_agreement_names_judges_and_strengths_that_there_are() -> None:
    """Two judges of one plugin are told apart; one strength is said once."""

    def rows(*groups: str) -> list[dict[str, Any]]:
        common = {"reference": "keyword keywords=[a]", "judge": "keyword keywords=[b]", "label": "x", "metric": "f1"}
        return [{**common, "group": g, "value": 0.5, "ci_low": 0.4, "ci_high": 0.6} for g in groups]

    (one,) = agreement._beside(rows("0"), "x", "90 %")
    judges = "F1 of the keyword keywords=[b] judge against the keyword keywords=[a] judge: "
    assert one.text == f"{judges}50.0 [40.0, 60.0] % at strength 0"
    (two,) = agreement._beside(rows("0", "10"), "x", "90 %")
    assert two.text == f"{one.text}, 50.0 [40.0, 60.0] % at 10"


def test_judges_of_one_plugin_have_their_own_names_in_the_figure() -> None:
    setting = "agreement.judge={name: rules, patterns: {backtracking: ['^Hmm'], deduction: ['^So']}}"
    made = made_up(
        "agreement",
        effect(0.0),
        PATTERNS,
        setting,
        "experiments=[transfer, agreement]",
        "resamples=100",
        text="Wait, no. So 4.",
    )
    (figure,) = made.findings.figures
    names = {(row["judge"], row["reference"]) for row in made.findings.data["agreement.csv"] if row["metric"] == "f1"}
    ((judge, reference),) = names
    assert judge != reference and figure.heading.startswith(f"{judge} against {reference}: 12 test prompts")
    assert made.findings.cautions[0].startswith("Few prompts behind a pooled figure: agreement of judges rests on 12.")


def test_the_lens_asks_about_its_own_words() -> None:
    assert Lens(words=["hmm"])._question() == (
        'Does the vector write words such as "hmm" by itself, or does it work upstream of them?'
    )
