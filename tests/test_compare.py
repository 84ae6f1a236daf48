"""Two runs side by side."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_run import METRICS, found, write_run
from scipy.stats import ttest_ind

from steerkit.findings import Findings
from steerkit.report import write_comparison
from steerkit.report.compare import claim_tables, condition_table, difference, setting_table
from steerkit.report.run import Run

NONE: dict[str, Findings] = {}


def two(tmp_path: Path, **second: object) -> tuple[Run, Run]:
    """Runs without findings."""
    folders = write_run(tmp_path / "a", NONE, asked=()), write_run(tmp_path / "b", NONE, asked=(), **second)  # type: ignore[arg-type]
    return Run.read(folders[0]), Run.read(folders[1])


def test_page_holds_both_findings_and_needs_nothing(tmp_path: Path) -> None:
    first = found()
    first["sweep"] = replace(first["sweep"], figures=first["sweep"].figures[3:])
    second = dict(first)
    second["transfer"] = replace(second["transfer"], finding="It does not.", claims=second["transfer"].claims[1:])
    del second["sweep"]
    a, b = write_run(tmp_path / "a", first), write_run(tmp_path / "b", second, asked=("transfer",))
    write_comparison(a, b, tmp_path / "both.html")
    html = (tmp_path / "both.html").read_text(encoding="utf-8")
    assert "raises the keyword rate from 1.2 % to 7.4 %" in html and "It does not." in html
    assert "<b>A</b> Block 2 is best." in html and "<b>B</b> Not in this run." in html
    assert "1 of 3 claims hold." in html and "0 of 2 claims hold." in html
    assert "both runs used the same test prompts" in html
    assert "&lt;script&gt;alert(1)" in html and "<script" not in html and not re.search(r"https?://", html)
    assert html.count("<img ") == 4 + 2 and html.count("Not in this run.</figcaption>") == 2
    table = next(claim_tables((Run.read(a), Run.read(b))))
    assert table.rows[0][1:] == ("claim", "holds: +6.20 [+4.90, +7.80]", "–")
    assert table.rows[1][2] == table.rows[1][3] == "does not hold: +0.40 [−0.30, +1.10]"


def test_settings_that_differ_and_no_others(tmp_path: Path) -> None:
    """Nested keys, entries of lists by their names, and what only one run has."""
    runs = two(
        tmp_path,
        changes={
            "experiments": [],
            "fitter": {"scale": "raw"},
            "samples": 2,
            "made_with": {"seed": 9},
            "name": "other",
        },
    )
    changed = {"experiments": [], "fitter": {"scale": "unit"}, "samples": 2}
    first = replace(runs[0], recipe={**runs[0].recipe, **changed})
    assert setting_table((first, runs[1])).rows == (("fitter.scale", "unit", "raw"),)
    listed = [{"name": "sweep", "layers": [1, 2]}, "transfer"], [{"name": "sweep", "layers": [1]}]
    named = [replace(run, recipe={"experiments": own}) for run, own in zip(runs, listed, strict=True)]
    assert setting_table(named).rows == (
        ("experiments", "sweep, transfer", "sweep"),
        ("experiments.sweep.layers", "1, 2", "1"),
    )


def test_conditions_of_both_with_their_difference(tmp_path: Path) -> None:
    table = condition_table(two(tmp_path, shift=-0.01))
    assert table.headings == ("experiment", "model", "vector", "strength", "metric", "A", "B", "B − A")
    assert len(table.rows) == 12  # six conditions, two metrics; the uncollapsed form of a metric has no row
    row = next(row for row in table.rows if row[1:4] == ("second", "dom", "20"))
    expected = ttest_ind_interval(-0.01, 0.01, 12, 0.9)
    assert row[4:7] == ("keyword rate, % of words", "5.20 [4.70, 5.70]", "4.20 [3.70, 4.70]")
    assert row[7] == f"−1.00 [−{-100 * expected[0]:.2f}, −{-100 * expected[1]:.2f}]"
    assert table.note == ""


def ttest_ind_interval(delta: float, sd: float, n: int, confidence: float) -> tuple[float, float]:
    """Welch's interval of two samples of a spread, by scipy."""
    base = np.arange(n) - (n - 1) / 2
    sample = base / base.std(ddof=1) * sd
    found = ttest_ind(sample + delta, sample, equal_var=False).confidence_interval(confidence)
    return float(found.low), float(found.high)


def test_conditions_are_matched_by_the_labels_that_both_have(tmp_path: Path) -> None:
    """A label that only one run has doesn't matter where it tells nothing apart."""
    runs = two(tmp_path, labels=("model", "vector", "strength", "pool"))
    table = condition_table(runs)
    assert len(table.rows) == 12 and "pool" not in table.headings


def test_conditions_that_only_another_label_tells_apart_are_left_out_and_counted(tmp_path: Path) -> None:
    runs = two(tmp_path, labels=("model", "vector", "norm"))  # it calls its strengths otherwise
    table = condition_table(runs)
    assert [row[:3] for row in table.rows] == [
        ("transfer", "first", "keyword rate, % of words"),
        ("transfer", "first", "harshness, points 0 to 100"),
        ("transfer", "second", "keyword rate, % of words"),
        ("transfer", "second", "harshness, points 0 to 100"),
    ]
    assert table.note == "16 rows are left out: they are told apart by columns that only one of the runs has."


def test_runs_that_measured_in_other_units_are_not_subtracted(tmp_path: Path) -> None:
    milder = [replace(m, unit="points 0 to 10", bounds=(0.0, 10.0)) if m.name == "tone" else m for m in METRICS]
    table = condition_table(two(tmp_path, metrics=milder))
    assert {row[-4] for row in table.rows} == {"keyword rate, % of words"}


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_is_welchs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(1, 2, 30), rng.normal(0, 1, 12)
    rows = [{"mean": x.mean(), "sd": x.std(ddof=1), "n_prompts": float(len(x))} for x in (a, b)]
    expected = ttest_ind(b, a, equal_var=False).confidence_interval(0.9)
    assert difference(*rows, 0.9) == pytest.approx((b.mean() - a.mean(), expected.low, expected.high))


def test_without_spread_or_values() -> None:
    row = {"mean": 0.5, "sd": 0.0, "n_prompts": 4.0}
    assert difference(row, {**row, "mean": 0.7}, 0.95) == pytest.approx((0.2, 0.2, 0.2))
    assert math.isnan(difference(row, {**row, "mean": None}, 0.95)[0])
