"""Names that look like numbers stay names: in tables, in recipes that are written and read again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steerkit import load_recipe
from steerkit.errors import SteerkitError
from steerkit.recipe.document import dump, read_yaml
from steerkit.recipe.show import resolved_yaml
from steerkit.store.csv_tables import read_csv, write_csv

NAMES = ("007", "NA", "True", "1e5", "nan", "inf", "None", "0x1f", "1_000", "12:30", "no", " x ", "-", 'a "b", c')


def test_names_in_tables_stay_names(tmp_path: Path) -> None:
    """Labels of conditions that an experiment has as texts, whatever its columns are called."""
    rows = [{"method": name, "vs_method": name, "mean": 0.25, "n_prompts": 3, "holds": True} for name in NAMES]
    rows = [{**row, "ci_low": float("nan")} for row in rows] + [dict.fromkeys([*rows[0], "ci_low"])]
    write_csv(tmp_path / "t.csv", list(rows[0]), rows)
    found = read_csv(tmp_path / "t.csv", ("method", "vs_method"))
    assert found == [{**row, "ci_low": None} for row in rows]
    assert all(type(row["n_prompts"]) is float and row["holds"] is True for row in found[:-1])


@pytest.mark.parametrize("name", NAMES)
def test_texts_in_recipes_stay_texts(name: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(dump({"label": name}))
    assert read_yaml(path).data == {"label": name}
    settings = [f"span_judge={{name: rules, patterns: {{? {json.dumps(name)} : [wait]}}}}", f"about={dump(name)}"]
    settings += [f"fitter.label={json.dumps(name)}", "baselines.labels=[]"]
    changed = load_recipe("backtracking", settings)
    path.write_text(resolved_yaml(changed))
    again = load_recipe(str(path), allow=["plugins", "servers", "push"])
    assert (again.shared["fitter"]["label"], again.about) == (name, name)


@pytest.mark.parametrize(
    ("encoding", "said"), [("latin-1", r":2: not UTF-8 \(byte 13 of"), ("utf-16", ":1: not UTF-8 but")]
)
def test_a_recipe_that_is_not_utf8(encoding: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes("extends: backtracking\nname: caf-ca\u00e9\n".encode(encoding))
    with pytest.raises(SteerkitError, match=r"r\.yaml" + said):
        load_recipe(str(path))
