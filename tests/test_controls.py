"""The controls: shares with their intervals, verdicts on made-up texts, and a run's own."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from steerkit_plugins.experiments.controls import Controls
from steerkit_plugins.experiments.measured import Measured
from steerkit_plugins.experiments.shares import share_of

from steerkit import SteeringVector, load_recipe
from steerkit.errors import SteerkitError
from steerkit.judging.metrics import RunMetric
from steerkit.run import SteeringTrainer
from steerkit.stats.two_level import contrast_interval
from steerkit.vectors.facts import cosine

N, K = 200, 20
ROOT = Path(__file__).parents[1]


def values(rng: np.random.Generator, mean: float, draws: int, spread: float = 0.0) -> np.ndarray:
    """[N, draws]: prompts' own level, each draw's own, and noise."""
    return mean + spread * rng.standard_normal(draws) + 0.3 * rng.standard_normal((N, draws))


def test_a_share_is_where_its_contrast_is_zero() -> None:
    rng = np.random.default_rng(0)
    none, true, own = values(rng, 1.0, 1), values(rng, 3.0, 1), values(rng, 2.0, K, 0.2)
    found = share_of(own, none, true, none, sign=1, confidence=0.95)
    assert found is not None
    assert found.value == pytest.approx((own.mean() - none.mean()) / (true.mean() - none.mean()))
    assert found.low < found.value < found.high

    def ends(m: float) -> tuple[float, float]:
        groups = [(1.0, own), (-1.0, none), (-m, true), (m, none)]
        estimate = contrast_interval(groups, confidence=0.95)
        return estimate.low, estimate.high

    assert ends(found.low)[0] == pytest.approx(0, abs=1e-9)
    assert ends(found.high)[1] == pytest.approx(0, abs=1e-9)


def test_where_less_is_better_the_share_is_the_same() -> None:
    rng = np.random.default_rng(1)
    none, true, own = values(rng, 1.0, 1), values(rng, 3.0, 1), values(rng, 2.0, K, 0.2)
    up = share_of(own, none, true, none, sign=1, confidence=0.95)
    down = share_of(-own, -none, -true, -none, sign=-1, confidence=0.95)
    assert up == down


def test_without_an_effect_there_is_no_share() -> None:
    rng = np.random.default_rng(2)
    none, true, own = values(rng, 1.0, 1), values(rng, 1.0, 1), values(rng, 1.5, K)
    assert share_of(own, none, true, none, sign=1, confidence=0.95) is None
    assert share_of(own, none, none.copy(), none, sign=1, confidence=0.95) is None


def test_a_share_beyond_reach_says_so() -> None:
    rng = np.random.default_rng(3)
    none, true, own = values(rng, 1.0, 1), values(rng, 1.08, 1), values(rng, 20.0, K, 30.0)
    found = share_of(own, none, true, none, sign=1, confidence=0.95)
    assert found is not None and "beyond 500" in found.text()


def table(path: Path, experiment: str = "") -> list[dict[str, str]]:
    """Rows of a csv file, of one experiment."""
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if experiment in ("", row.get("experiment"))]


def measured(**arrays: np.ndarray) -> Measured:
    """Of made-up values by control."""
    metric = RunMetric(name="rate", unit="share of words", bounds=(0.0, 1.0), better="up", judge="x", main=True)
    names = {"true": "judged labels"}
    columns = [
        (SimpleNamespace(labels={"control": names.get(name, name)}, id=f"{name}{index}"), own[:, index])
        for name, own in arrays.items()
        for index in range(own.shape[1])
    ]
    by_id = {condition.id: own for condition, own in columns}
    scored = SimpleNamespace(is_broken=lambda c: False, by_prompt=lambda c, m: (None, by_id[c.id]))
    results: Any = SimpleNamespace(
        conditions=[condition for condition, _ in columns], scored=scored, level="95 %", confidence=0.95
    )
    return Measured(results, metric, 0.25)


@pytest.mark.parametrize(
    ("within", "over", "expected"),
    [
        ((0.21, 0.005), (0.12, 0.01), ("holds", "holds", "holds")),  # of an effect from 0.10 to 0.30
        ((0.30, 0.005), (0.12, 0.01), ("holds", "does not hold", "holds")),
        ((0.30, 0.005), (0.30, 0.005), ("does not hold", "does not hold", "does not hold")),
        ((0.27, 0.08), (0.27, 0.08), ("unclear", "unclear", "unclear")),
        ((0.12, 0.01), (0.12, 0.01), ("holds", "holds", "does not hold")),
    ],
)
def test_verdicts(within: tuple[float, float], over: tuple[float, float], expected: tuple[str, ...]) -> None:
    rng = np.random.default_rng(4)
    noise = {"none": (0.10, 1, 0.0), "true": (0.30, 1, 0.0)}
    noise |= {"within": (within[0], K, within[1]), "over": (over[0], K, over[1])}
    found = measured(
        **{n: m + s * rng.standard_normal(k) + 0.05 * rng.standard_normal((N, k)) for n, (m, k, s) in noise.items()}
    )
    claims = [claim for claim in found.claims() if claim.kind == "claim"]
    assert tuple(claim.verdict for claim in claims) == expected
    assert [claim.text.partition(":")[0] for claim in claims] == [
        "The label matters",
        "The place in the trace matters",
        "The trace matters",
    ]
    assert all(claim.detail.endswith("of the vector's effect") for claim in claims)


def test_controls_of_fewer_prompts_are_named() -> None:
    """A prompt counts where it has a value under every draw: five have none under some draw, two of them under two."""
    rng = np.random.default_rng(6)
    found = measured(
        none=values(rng, 0.1, 1), true=values(rng, 3.0, 1), within=values(rng, 2.0, K), over=values(rng, 1, K)
    )
    assert list(found.fewer()) == []
    found.values["within"][[3, 3, 7, 7, 50, 60, 199], [0, 1, 4, 19, 2, 2, 5]] = np.nan
    assert list(found.fewer()) == ["labels shuffled within each trace on 195 of 200"]
    [caution, *_] = Controls()._cautions({"rate": found}, 0)
    assert caution.startswith("Prompts left out of rate, without a value under some draw (as empty texts are): labels ")
    assert "shuffled within each trace on 195 of 200 prompts. A difference" in caution
    assert found.difference("within", "over").n == 195


def test_a_claim_that_nothing_is_compared_for_is_not_made() -> None:
    rng = np.random.default_rng(5)
    found = measured(none=values(rng, 0.1, 1), true=values(rng, 3.0, 1), within=values(rng, 2.0, K))
    assert [claim.text.partition(":")[0] for claim in found.claims() if claim.kind == "claim"] == [
        "The place in the trace matters"
    ]


def test_a_run_has_them(run: Path) -> None:
    found = json.loads((run / "findings/controls.json").read_text())["findings"]
    true = SteeringVector.load(run / "vectors/base.backtracking.-13..-8.safetensors")
    rows = table(run / "controls.csv")
    assert [(row["control"], row["draw"]) for row in rows] == [
        (kind, str(n)) for kind in ("within", "covariance", "isotropic") for n in range(2)
    ]
    for row in rows:
        name = f"vectors/base.backtracking.-13..-8.{row['control']}-0{row['draw']}.safetensors"
        drawn = SteeringVector.load(run / name)
        assert float(row["cosine"]) == pytest.approx(cosine(true.direction(1), drawn.direction(1)), rel=1e-5)
        assert f"draw {row['draw']}" in drawn.info.method
    assert [claim["text"].partition(":")[0] for claim in found["claims"][:1]] == ["The place in the trace matters"]
    assert found["cautions"][0].startswith("Few draws: each control rests on 2 draws.")
    results = table(run / "results.csv", "controls")
    added = {row["added_norm"] for row in results if row["control"] not in ("none", "")}
    assert added == {"30"}
    assert len({(row["control"], row["draw"]) for row in results}) == 2 + 3 * 2
    page = (run / "report.html").read_text()
    assert 'class="qualifier"' in page and "labels shuffled within each trace" in page
    baselines = table(run / "results.csv", "baselines")
    assert "labels shuffled over all traces" in {row["method"] for row in baselines}
    compared = table(run / "comparisons.csv", "baselines")
    assert "labels shuffled over all traces" not in {row["vs_method"] for row in compared}


def test_wrong_settings_are_told() -> None:
    settings = [
        "experiments=[controls]",
        "controls={strength: 30, chosen_by: choose, source: bse}",
        "output_dir=runs/none",
    ]
    with pytest.raises(SteerkitError) as caught:
        SteeringTrainer.from_recipe(load_recipe("backtracking", settings))
    assert "no model is called 'bse'; did you mean 'base'" in str(caught.value)
    assert "chosen_by too; leave one out" in str(caught.value)


def test_the_page_on_controls_runs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs/controls.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert "runs/quick" in code
    exec(compile(code.replace("runs/quick", str(run)), "controls.md", "exec"), {})
    assert re.search(r"\{0: 0?\.?\d.*\[", capsys.readouterr().out)
