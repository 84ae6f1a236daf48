"""Names that look like numbers stay names: in tables, in recipes that are written and read again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steerkit import load_recipe
from steerkit.errors import SteerkitError
from steerkit.judging.agreement_tables import COLUMNS as AGREEMENT
from steerkit.recipe.document import dump, read_yaml
from steerkit.recipe.show import resolved_yaml
from steerkit.steps.lens import COLUMNS as LENS
from steerkit.steps.projection import COLUMNS as DETECTION
from steerkit.tables import COMPARISON_COLUMNS, RESULT_COLUMNS, TEXT_COLUMNS, read_csv, write_csv

NAMES = ("007", "NA", "True", "1e5", "nan", "inf", "None", "0x1f", "1_000", "12:30", "no", " x ", "-", 'a "b", c')


def test_names_in_tables_stay_names(tmp_path: Path) -> None:
    columns = (*sorted(TEXT_COLUMNS), "mean", "n_prompts", "holds", "ci_low")
    rows = [dict.fromkeys(TEXT_COLUMNS, name) | {"mean": 0.25, "n_prompts": 3, "holds": True} for name in NAMES]
    rows = [{**row, "ci_low": float("nan")} for row in rows] + [dict.fromkeys(columns)]
    write_csv(tmp_path / "t.csv", columns, rows)
    found = read_csv(tmp_path / "t.csv")
    assert found == [{**row, "ci_low": None} for row in rows]
    assert all(type(row["n_prompts"]) is float and row["holds"] is True for row in found[:-1])


def test_every_column_that_holds_names_is_known() -> None:
    """The rest of all tables are numbers, booleans and (`group`) the strength as text."""
    numbers = {
        *("layer", "window_start", "window_end", "strength", "added_norm", "mean", "sd", "ci_low", "ci_high", "delta"),
        *("degenerate", "holds", "chosen", "p", "p_holm", "pairing_gain", "mean_words", "longest_repeat", "distinct_2"),
        *("perplexity", "vs_layer", "vs_window_start", "vs_window_end", "value", "missing", "group", "within", "auroc"),
        *("score", "random_low", "random_high", "final_norm", "norm"),
    }
    for columns in (RESULT_COLUMNS, COMPARISON_COLUMNS, AGREEMENT, DETECTION, LENS):
        counted = {name for name in columns if name.startswith("n_")}
        assert set(columns) == (set(columns) & TEXT_COLUMNS) | (set(columns) & numbers) | counted


@pytest.mark.parametrize("name", NAMES)
def test_texts_in_recipes_stay_texts(name: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(dump({"label": name}))
    assert read_yaml(path).data == {"label": name}
    settings = [f"span_judge={{name: rules, patterns: {{? {json.dumps(name)} : [wait]}}}}", f"about={dump(name)}"]
    settings += [f"fitter.label={json.dumps(name)}", "baseline_labels=[]"]
    changed = load_recipe("backtracking", settings)
    path.write_text(resolved_yaml(changed))
    again = load_recipe(str(path), allow=["plugins", "servers", "push"])
    assert (again.fitter.options["label"], again.about) == (name, name)


@pytest.mark.parametrize(
    ("encoding", "said"), [("latin-1", r":2: not UTF-8 \(byte 13 of"), ("utf-16", ":1: not UTF-8 but")]
)
def test_a_recipe_that_is_not_utf8(encoding: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes("extends: backtracking\nname: caf-ca\u00e9\n".encode(encoding))
    with pytest.raises(SteerkitError, match=r"r\.yaml" + said):
        load_recipe(str(path))
