"""Two runs side by side."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from report_run import effect, write_run
from scipy.stats import ttest_ind

from steerkit.report import write_report
from steerkit.report.compare import condition_table, difference, setting_table, write_comparison
from steerkit.report.run import Run


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    first = write_run(tmp_path / "first", effect(0.05))
    second = write_run(tmp_path / "second", effect(0.0), kept=("transfer",))
    recipe = second / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("scale: unit", "scale: raw"))
    for folder in (first, second):
        write_report(folder)
    return first, second


def test_page_holds_both_findings_and_needs_nothing(two: tuple[Path, Path], tmp_path: Path) -> None:
    write_comparison(*two, tmp_path / "both.html")
    html = (tmp_path / "both.html").read_text()
    assert "The effect is there on these prompts." in html and "The effect is not shown on these prompts." in html
    assert "both runs used the same test prompts" in html
    assert "&lt;script&gt;alert(1)" in html and "<script" not in html
    assert not re.search(r"https?://", html) and html.count("<img ") == 7  # 5 figures and 2
    assert html.count("Not in this run.") == 3


def test_settings_that_differ_and_no_others(two: tuple[Path, Path]) -> None:
    table = setting_table([Run.read(folder) for folder in two])
    assert table.rows == [("fitter.scale", "unit", "raw")]


def test_conditions_of_both_with_their_difference(two: tuple[Path, Path]) -> None:
    table = condition_table([Run.read(folder) for folder in two])
    assert {row[0] for row in table.rows} == {"transfer"}
    row = next(r for r in table.rows if r[1:4] == ("dom (fitted vector)", "base-derived", "reasoning"))
    assert row[8:10] == ("7.00 [6.50, 7.50]", "2.00 [1.50, 2.50]") and row[10].startswith("−5.00 [")


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
