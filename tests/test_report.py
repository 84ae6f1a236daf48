"""The report: whole, self-contained, safe to open, and honest in both directions."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from report_run import effect, metrics_with, write_run
from rich.console import Console

from steerkit.conditions import Condition
from steerkit.errors import SteerkitError
from steerkit.interfaces import Judge, Metric
from steerkit.report import print_summary, summary, textgrid, write_report
from steerkit.report.cautions import cautions
from steerkit.report.compare import condition_table
from steerkit.report.finding import Claim, claims_of, headline
from steerkit.report.run import Run
from steerkit.report.tabulate import experiment_table
from steerkit.report.texts import Piece, marks_of, pieces, windows_before
from steerkit.report.words import interval, named, percent, unit, value
from steerkit.steps.projection import COLUMNS
from steerkit.store.files import write_jsonl
from steerkit.tables import COMPARISON_COLUMNS, RESULT_COLUMNS, read_csv, write_csv

FILES = [
    *(f"figures/{n}.{k}" for n in ("transfer", "baselines", "offsets", "layers", "texts") for k in ("png", "svg")),
    "report.html",
]


def claims(folder: Path) -> dict[str, Claim]:
    return {claim.text: claim for claim in summary(folder) if claim.kind == "claim"}


def page(folder: Path) -> str:
    write_report(folder)
    return (folder / "report.html").read_text(encoding="utf-8")


def test_writes_all_its_files_and_the_same_ones_again(tmp_path: Path) -> None:
    write_run(tmp_path, effect(0.05))
    assert write_report(tmp_path) == FILES
    first = {name: (tmp_path / name).read_bytes() for name in FILES}
    assert all(first[name].startswith(b"\x89PNG") for name in FILES if name.endswith("png"))
    assert all(b"<svg" in first[name] for name in FILES if name.endswith("svg"))
    write_report(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == first


def test_page_needs_nothing_and_runs_nothing(tmp_path: Path) -> None:
    html = page(write_run(tmp_path, effect(0.05)))
    assert "<script" not in html and not re.search(r"\son\w+=[^ ]*>", html.replace("&lt;", "").split("<body>")[0])
    assert not re.search(r"https?://", html)
    assert set(re.findall(r'(?:src|href)="([^"]{0,22})', html)) == {"data:image/png;base64,"}
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in html
    assert html.count("<img ") == 5


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    html = page(write_run(tmp_path, effect(0.05)))
    assert "&lt;script&gt;alert(1)&lt;/script&gt; {{ 7 * 7 }} {% raw %} &lt;img src=x onerror=y&gt; &amp;" in html


def test_texts_are_those_of_the_main_vector_and_marked(tmp_path: Path) -> None:
    html = page(write_run(tmp_path, effect(0.05), text="Wait, no. Next."))
    assert "From the sweep." not in html
    assert '<mark><span class="key">Wait,</span></mark><mark> no.</mark> Next.' in html
    assert '<span class="after">&lt;/think&gt; It is 4.</span>' in html
    assert 'class="flag">collapsed' not in html
    assert 'class="flag">collapsed' in page(write_run(tmp_path, effect(0.05), text="wait " * 8))


def test_unknown_judge_leaves_sentences_unmarked_and_says_so(tmp_path: Path) -> None:
    write_run(tmp_path, effect(0.05))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("name: rules", "name: rulez"))
    html = page(tmp_path)
    assert "Sentences are not marked: the judge can&#39;t be had here" in html
    assert "<mark>Wait" not in html


@pytest.mark.parametrize("swept", [(10.0,), (10.0, 20.0, 30.0)])
def test_one_strength_and_many(tmp_path: Path, swept: tuple[float, ...]) -> None:
    write_run(tmp_path, effect(0.05), strengths=(10.0,), swept=swept)
    assert write_report(tmp_path) == FILES


def test_missing_experiments_are_skipped(tmp_path: Path) -> None:
    write_run(tmp_path, effect(0.05), kept=("transfer",))
    assert write_report(tmp_path) == [name for name in FILES if "transfer" in name or "texts" in name or "html" in name]
    assert not any("baseline" in text for text in claims(tmp_path))


def test_only_tables_and_recipe_are_needed(tmp_path: Path) -> None:
    write_run(tmp_path, effect(0.05))
    for name in ("choice.json", "spans.notes.json", "log.jsonl", "state.json", "prompts.jsonl", "generations.jsonl"):
        (tmp_path / name).unlink()
    assert write_report(tmp_path) == [name for name in FILES if "texts" not in name]


def test_every_text_empty(tmp_path: Path) -> None:
    write_run(tmp_path, lambda condition, metric: None, swept=(10.0, 20.0), text="")
    html = page(tmp_path)
    assert "Nothing can be said: there is nothing to compare. 0 of 8 claims hold." in html
    assert '<td class="n">–</td>' in html and not re.search(r"\bnan\b", html.partition("<body>")[2])
    assert {claim.verdict for claim in claims(tmp_path).values()} == {"cannot be told"}
    assert not any(claim.holds for claim in claims(tmp_path).values())


def test_base_texts_empty_say_nothing_about_the_base_model(tmp_path: Path) -> None:
    there = effect(0.05)
    write_run(tmp_path, lambda c, metric: None if c.target == "base" else there(c, metric))
    stays = next(claim for text, claim in claims(tmp_path).items() if text.startswith("The base model's b"))
    assert stays.verdict == "cannot be told" and "at least 0 texts not empty" in stays.detail


def test_an_effect_that_is_there_holds(tmp_path: Path) -> None:
    write_run(tmp_path, effect(0.05))
    found = claims(tmp_path)
    assert len(found) == 8 and all(claim.verdict == "holds" for claim in found.values())
    text = headline(Run.read(tmp_path), list(found.values()))
    assert text.startswith("The effect is there on these prompts.") and text.endswith("8 of 8 claims hold.")
    assert "judged backtracking sentences 2.00 → 7.00 % of sentences; b 2.00 → 7.00 % of words" in text


@pytest.mark.parametrize(
    ("size", "words"), [(0.0, "The effect is not shown"), (-0.015, "the vector works the other way")]
)
def test_an_effect_that_is_not_there_does_not_hold(tmp_path: Path, size: float, words: str) -> None:
    write_run(tmp_path, effect(size))
    found = claims(tmp_path)
    raised = [claim for text, claim in found.items() if "raises" in text]
    assert len(raised) == 6 and all(claim.verdict == "does not hold" for claim in raised)
    assert words in headline(Run.read(tmp_path), claims_of(Run.read(tmp_path)))
    assert words in page(tmp_path)


def test_one_baseline_as_good_is_enough_to_fail(tmp_path: Path) -> None:
    there = effect(0.05)
    write_run(tmp_path, lambda c, metric: 0.08 if c.method == "deduction" else there(c, metric))
    found = claims(tmp_path)
    over = found["The base-derived vector raises judged backtracking sentences over every baseline of equal norm"]
    assert over.verdict == "does not hold" and over.points == "−1.00"
    assert over.detail == "figures against deduction, where it is weakest; holds against 2 of 3, not against deduction"
    text = headline(Run.read(tmp_path), list(found.values()))
    assert text.startswith("Part of the effect is there") and "6 of 8 claims hold" in text


def test_collapse_alone_is_no_effect(tmp_path: Path) -> None:
    there, not_there = effect(0.05), effect(0.0)
    write_run(tmp_path, lambda c, metric: (not_there if metric.endswith("uncollapsed") else there)(c, metric))
    for text, claim in claims(tmp_path).items():
        assert claim.holds != ("collapsed" in text)


def test_base_model_that_backtracks_is_reported(tmp_path: Path) -> None:
    there = effect(0.05)

    def value(c: object, metric: str) -> float | None:
        follows = (c.source, c.target, c.strength) == ("reasoning", "base", 20.0)  # type: ignore[attr-defined]
        return 0.03 if follows else there(c, metric)  # type: ignore[arg-type]

    write_run(tmp_path, value)
    stays = next(claim for text, claim in claims(tmp_path).items() if text.startswith("The base model's b"))
    assert stays.verdict == "does not hold"
    assert stays.detail.startswith("figures where it comes closest, reasoning-derived at strength 20; ")


def test_one_model_under_two_names_is_said(tmp_path: Path) -> None:
    html = page(write_run(tmp_path, effect(0.05), same_model=True))
    assert "one and the same model" in html
    assert not any(text.startswith("The base model's b") for text in claims(tmp_path))


def test_what_stands_beside_is_not_claimed(tmp_path: Path) -> None:
    write_run(tmp_path, effect(0.05))
    beside = {claim.text: claim for claim in summary(tmp_path) if claim.kind == "beside"}
    assert beside["b, window −13..−8 minus 0..5"].verdict == "no clear difference"
    assert beside["Judged sentences, block 2 minus 0, the best other"].verdict == "higher"
    assert "Cosine of base- and reasoning-derived vectors: 0.71 at block 2" in beside
    damage = beside["Sentences that fit no label (text damage), steered minus unsteered"]
    assert damage.detail == "steered 2.00 % of sentences; collapsed texts: 1; p 0.50 after Holm over 14"


def test_data_and_provenance_are_on_the_page(tmp_path: Path) -> None:
    html = page(write_run(tmp_path, effect(0.05)))
    for text in (
        "D₊ 5 windows, D 11, 1 dropped; 1 sample a prompt and condition, seed 3",
        "It was the best.",
        "Mean coverage of a trace by its annotation: 95.0%.",
        "a label that doesn&#39;t exist, left out: odd 2.",
        "pocket:base, 4 blocks of width 3; weights f00d",
        "90 % interval",
        "labelled by gpt-4o-2024-11-20 (9 answers): 1,200 tokens read, 900 written, 0.01 dollars",
        "refused 1.",
        "intervals of claims are not corrected for their number",
    ):
        assert text in html


def rewrite(folder: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    columns = {"results.csv": RESULT_COLUMNS, "comparisons.csv": COMPARISON_COLUMNS}[name]
    rows = read_csv(folder / name)
    for row in rows:
        change(row)
    write_csv(folder / name, columns, rows)


def told(folder: Path) -> list[str]:
    run = Run.read(folder)
    return cautions(run, claims_of(run))


def test_differences_beside_are_told_by_holm_over_their_family(tmp_path: Path) -> None:
    write_run(tmp_path, effect(0.05))

    def other_text() -> Claim:
        beside = {claim.text: claim for claim in summary(tmp_path) if claim.kind == "beside"}
        return beside["Judged sentences, block 2 minus 0, the best other"]

    assert other_text().verdict == "higher" and other_text().detail.endswith("; p 0.001 after Holm over 3")
    rewrite(tmp_path, "comparisons.csv", lambda row: row.update(p_holm=0.11))  # the level of this run is 0.1
    found = other_text()
    assert found.verdict == "no clear difference" and found.low is not None and found.low > 0
    assert "p 0.11 after Holm over 3" in found.detail


def test_perplexity_has_a_column_where_it_was_measured(tmp_path: Path) -> None:
    write_run(tmp_path, effect(0.05))
    assert experiment_table(Run.read(tmp_path), "transfer").headings[-1] == "distinct\u20112"
    rewrite(tmp_path, "results.csv", lambda row: row.update(perplexity=3.25))
    table = experiment_table(Run.read(tmp_path), "transfer")
    assert table.headings[-1] == "perplexity" and {row[-1] for row in table.rows} == {"3.25"}
    assert {len(row) for row in table.rows} == {len(table.headings)}


def test_cautions_say_what_intervals_do_not_hold(tmp_path: Path) -> None:
    write_run(tmp_path, effect(0.05))
    assert [line.split(":")[0] for line in told(tmp_path)] == [
        "Few prompts",
        "1 collapsed text at the chosen strength",
        "Pairing, each prompt against itself with the same random numbers, makes an interval narrower or wider than "
        "two independent sets of prompts would",
    ]
    assert "a claim rests on 12 prompts. Below 32 an interval" in told(tmp_path)[0]
    assert "20 % narrower for b," in told(tmp_path)[-1]
    rewrite(tmp_path, "comparisons.csv", lambda row: row.update(n_prompts=64, n_apart=9, pairing_gain=-0.1))
    rewrite(tmp_path, "results.csv", lambda row: row.update(n_prompts=64, n_collapsed=0))
    few, pairing = told(tmp_path)
    assert few.startswith("Few prompts that differ, steered minus unsteered: b 9, ") and "fewer than 10" in few
    assert "10 % wider for b," in pairing
    rewrite(tmp_path, "comparisons.csv", lambda row: row.update(n_apart=0, degenerate=True, pairing_gain=None))
    (flat,) = told(tmp_path)
    assert re.match(r"Degenerate: (\d+) of \1 differences", flat)
    assert {c.interval for c in summary(tmp_path) if c.n == 64 and "above 0" not in c.text} == {"degenerate"}
    rewrite(tmp_path, "comparisons.csv", lambda row: row.update(n_apart=30, degenerate=False))
    assert told(tmp_path) == []


def test_cautions_name_pooled_figures_of_few_texts(tmp_path: Path) -> None:
    write_run(tmp_path, effect(0.05))
    before = told(tmp_path)
    columns = ("judge", "n_traces")
    write_csv(tmp_path / "agreement.csv", columns, [{"judge": "keyword", "n_traces": n} for n in (120, 99, 128)])
    write_csv(tmp_path / "detection.csv", columns, [{"judge": "", "n_traces": 100}])
    (few,) = set(told(tmp_path)) - set(before)
    assert few.startswith("Few texts behind a pooled figure: agreement of judges 99. Below 100 ")


def test_cautions_are_on_the_page_and_on_the_screen(tmp_path: Path) -> None:
    html = page(write_run(tmp_path, effect(0.05), kept=("transfer",)))
    console = Console(file=StringIO(), width=400)
    print_summary(tmp_path, console)
    for text in (html, console.file.getvalue()):  # type: ignore[attr-defined]
        assert "Few prompts: a claim rests on 12 prompts." in text and "20 % narrower for b" in text


def test_tables_of_another_version_are_refused_by_name(tmp_path: Path) -> None:
    write_run(tmp_path, effect(0.05))
    columns = [name for name in COMPARISON_COLUMNS if name not in ("p", "p_holm")]
    write_csv(tmp_path / "comparisons.csv", columns, read_csv(tmp_path / "comparisons.csv"))
    with pytest.raises(SteerkitError, match=r"comparisons\.csv: has no column p, p_holm: another version"):
        summary(tmp_path)


def test_screen(tmp_path: Path) -> None:
    write_run(tmp_path, effect(0.0))
    console = Console(file=StringIO(), width=100, soft_wrap=True)
    print_summary(tmp_path, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "does not hold" in text and "90 % interval" in text
    assert all(len(line.rstrip()) <= 100 for line in text.splitlines())


def test_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SteerkitError, match=r"recipe\.yaml: is not there: no finished run"):
        write_report(tmp_path)


def test_import_is_cheap() -> None:
    code = "import sys, steerkit.report; print(any(m in sys.modules for m in ('torch', 'matplotlib', 'jinja2')))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


class Toxicity(Judge):
    """A judge of points that should fall."""

    name = "toxicity"

    def metrics(self) -> list[Metric]:
        return [
            Metric("toxicity", "points 0 to 100", (0, 100), "down"),
            Metric("warmth", "degrees", title="warmth of tone"),
        ]


def falls(size: float) -> Callable[[Condition, str], float | None]:
    """The base-derived vector lowers toxicity, 50 on the reasoning and 80 on the base model, and moves nothing else."""

    def value(c: Condition, metric: str) -> float | None:
        if metric.startswith("toxicity"):
            return 80.0 if c.target == "base" else 50.0 - size * (c.method == "dom" and c.layer == 2) * c.strength
        return -3.0 if metric == "warmth" else effect(0.0)(c, metric)

    return value


def test_a_metric_that_should_fall(tmp_path: Path) -> None:
    """Claims, sweeps and figures follow its direction and its unit; one with no direction is claimed nothing about."""
    metrics = metrics_with(Toxicity())
    write_run(tmp_path, falls(0.5), swept=(10.0, 20.0), metrics=metrics)
    assert set(write_report(tmp_path)) == set(FILES)
    found, name = claims(tmp_path), "toxicity (points 0 to 100, lower is better)"
    for text in (
        f"The base-derived vector lowers {name} over unsteered",
        f"The base-derived vector lowers {name} over unsteered, its own collapsed texts counted as unsteered ones",
    ):
        assert (found[text].verdict, found[text].points) == ("holds", "−5.00"), text
    stays = found[f"The base model's {name} stays above the unsteered reasoning model's at every strength"]
    assert stays.verdict == "holds" and "unsteered 80.0, steered at least 80.0;" in stays.detail
    assert not any("above 0" in text or "warmth" in text for text in found)
    run = Run.read(tmp_path)
    assert "toxicity 50.0 → 45.0 (points 0 to 100)" in headline(run, list(found.values()))
    beside = {claim.text: claim for claim in summary(tmp_path) if claim.kind == "beside"}
    block = beside[f"{name.capitalize()}, block 2 minus 0, the best other"]
    assert (block.verdict, block.points, block.detail[:27]) == ("lower", "−5.00", "lowest: 2 with 45.0 [45.0, ")
    assert beside["Warmth of tone (degrees), steered minus unsteered"].verdict == "no clear difference"
    table = experiment_table(run, "transfer")
    assert table.headings[3:5] == ("toxicity, points 0 to 100", "warmth of tone, degrees")
    assert table.rows[0][3] == "80.0 [80.0, 80.0]" and table.rows[0][4] == "−3.00 [−3.00, −3.00]"
    html = page(tmp_path)
    assert (
        "toxicity (points 0 to 100, judge toxicity, down is better)" in html and "keyword" not in html.split("<pre>")[0]
    )
    svg = (tmp_path / "figures/offsets.svg").read_text(encoding="utf-8")
    assert "<!-- toxicity (lower is better); unsteered 50.0 -->" in svg and "<!-- degrees -->" in svg


def test_a_metric_that_rises_instead(tmp_path: Path) -> None:
    write_run(tmp_path, falls(-0.5), metrics=metrics_with(Toxicity()))
    found = claims(tmp_path)
    fell = [claim for text, claim in found.items() if "lowers" in text]
    assert [claim.verdict for claim in fell] == ["does not hold"] * 2 and fell[0].points == "+5.00"


def test_runs_that_measured_in_other_units_are_not_subtracted(tmp_path: Path) -> None:
    class Milder(Toxicity):
        def metrics(self) -> list[Metric]:
            return [Metric("toxicity", "points 0 to 10", (0, 10), "down"), *super().metrics()[1:]]

    runs = []
    for name, judge in (("a", Toxicity()), ("b", Toxicity()), ("c", Milder())):
        (tmp_path / name).mkdir()
        runs.append(Run.read(write_run(tmp_path / name, falls(0.0), metrics=metrics_with(judge))))
    same = {row[6] for row in condition_table(runs[:2]).rows}
    assert "toxicity, points 0 to 100" in same
    assert {row[6] for row in condition_table(runs[1:]).rows} == same - {"toxicity, points 0 to 100"}


def test_a_run_without_its_metrics_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, effect(0.0))
    (tmp_path / "metrics.json").unlink()
    with pytest.raises(
        SteerkitError, match=r"metrics\.json: is not there: .* run the recipe to its end in this folder"
    ):
        summary(tmp_path)


@pytest.mark.parametrize(
    ("bounds", "number", "shown"),
    [
        ((0, 100), 59.123, "59.1"),
        ((0, 100), 0.0444, "0.04"),
        ((0, 100), 100.0, "100.0"),
        ((-1, 1), 0.1234, "0.123"),
        ((0, 0.01), 0.00123, "0.00123"),
        ((None, None), -1234.56, "−1,234.6"),
        ((0, None), 0.00123, "0.00123"),
        ((None, None), 0.0, "0.00"),
        ((None, None), math.nan, "–"),
        ((0, 100), -1e-9, "0.00"),
    ],
)
def test_values_in_their_own_unit(bounds: tuple[float | None, float | None], number: float, shown: str) -> None:
    assert value(number, Metric("x", "points", bounds)) == shown


def test_shares_are_in_percent() -> None:
    share = Metric("x", "share of words", (0, 1), title="b")
    assert (value(0.0123, share), unit(share), named(share)) == ("1.23", "% of words", "b")
    assert interval(-0.001, 0.02, share, signed=True) == "[−0.10, +2.00]"
    rate = Metric("x", "share of words", (0, None))
    assert (value(0.0123, rate), unit(rate)) == ("0.01", "share of words")


def test_numbers() -> None:
    assert [percent(x) for x in (None, float("nan"), 0.0123, 0.5, -1e-9)] == ["–", "–", "1.23", "50.0", "0.00"]
    assert interval(-0.001, 0.02, signed=True) == "[−0.10, +2.00]"


def test_what_is_outlined_is_what_the_score_judge_counts(tmp_path: Path) -> None:
    def marks(text: str, **judge: Any) -> list[str] | None:
        run = Run(tmp_path, {"score_judge": judge}, [], [], ())
        [places] = marks_of(run, [text])
        return None if places is None else [text[start:end] for start, end in places]

    text = "Wait, wait. A waiter. Hold on — 等等，不对。"
    assert marks(text, name="keyword", keywords=["**wait**"]) == ["Wait,", "wait."]
    assert marks(text, name="keyword", keywords=["wait"], substring=True) == ["Wait,", "wait.", "waiter."]
    assert marks(text, name="keyword", keywords=["hold on", "等等"]) == ["Hold on", "等等"]
    assert marks(text, name="rules", patterns={"x": ["Wait"]}) is marks(text, name="not here") is None


def test_pieces_make_up_the_text() -> None:
    """Each character is marked by the spans that it lies in, nested and overlapping ones too."""
    text = "Wait, wait. A waiter."
    judged, marked, windows = [(0, 11)], [(0, 5), (6, 11)], [(3, 8), (4, 8), (9, 9), (20, 21)]
    found = [piece for piece in pieces(text, judged, marked, windows) for _ in piece.text]
    assert "".join(piece.text for piece in pieces(text, judged, marked, windows)) == text
    for place, piece in enumerate(found):
        inside = [any(a <= place < b for a, b in spans) for spans in (judged, marked, windows)]
        assert [piece.judged, piece.marked, piece.window] == inside


@pytest.mark.parametrize("text", ["", "<b>Wait,"])
def test_projections_of_empty_texts_and_of_one_token(tmp_path: Path, text: str) -> None:
    """A figure with nothing, or one point, in it is drawn and says so; the text stays text."""
    write_run(tmp_path, effect(0.05), kept=("transfer",), text=text)
    starts, value = ([0], [0.5]) if text else ([], [])
    write_jsonl(
        tmp_path / "projections.jsonl",
        [{"id": "test-0-0", "prompt": "p", "text": text, "starts": starts, "values": value, "begins": starts}],
    )
    nan, count = float("nan"), len(starts)
    row = {
        "source": "base",
        "target": "base",
        "layer": 2,
        "within": 1,
        "auroc": nan,
        "ci_low": nan,
        "ci_high": nan,
        "n_hits": 0,
        "n_tokens": count,
        "n_traces": count,
        "label": "backtracking",
    }
    write_csv(tmp_path / "detection.csv", COLUMNS, [row])
    html = page(tmp_path)
    assert (tmp_path / "figures/projection.png").is_file()
    assert "Does the vector detect?" in html and "<b>Wait" not in html


def test_texts_of_any_script_are_drawn_one_column_a_character(tmp_path: Path) -> None:
    """A character that the font lacks is a square, not a warning, and nothing runs off the page."""
    text = "Wait, 等等 no ∈ 🤔 e\u0301 👩\u200d👩 \x07\u202e שלום. " + "等这里没有空格" * 20
    assert page(write_run(tmp_path, effect(0.05), kept=("transfer",), text=text)).count("等这里没有空格") >= 20
    lines = textgrid.lines_of([Piece(text, judged=True)], 40, 9)
    assert "".join(character for character, _ in lines[0]).startswith("Wait, □□ no ∈ □ é □□ ")
    assert all(len(line) <= 41 and all(len(character) == 1 for character, _ in line) for line in lines)  # a space more


def test_windows_are_marked_as_tokens_overlap_characters() -> None:
    """The sentence at 4 begins in token 2, which also holds the space before it; tokens 3 and 4 continue its √."""
    text, starts, continues = "a b √2. So", (0, 1, 3, 4, 4, 5, 6, 7), (3, 4)
    assert windows_before([(4, 7)], (starts, continues), (-1, -1), len(text)) == [(1, 3)]
    assert windows_before([(4, 7)], (starts, continues), (0, 0), len(text)) == [(3, 5)]  # the half is marked whole
    assert windows_before([(4, 7)], (starts, continues), (-3, -1), len(text)) == []
    assert windows_before([(7, 10)], (starts, continues), (0, 0), len(text)) == [(7, 10)]
    assert windows_before([(0, 1)], ((), ()), (0, 0), 0) == []
