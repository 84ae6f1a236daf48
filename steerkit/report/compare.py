"""Two runs side by side: what each found, what differs in their settings, and the conditions that both ran."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from steerkit.errors import readable
from steerkit.judging.metrics import RunMetric
from steerkit.report import words
from steerkit.report.finding import Claim, claims_of, headline
from steerkit.report.page import data_uri, environment
from steerkit.report.run import Row, Run, select
from steerkit.report.tabulate import Table, estimate, tabulated
from steerkit.store.files import atomic

FIGURES = ("transfer", "baselines", "offsets", "layers", "lens", "projection", "agreement", "texts")
KEY = (
    "experiment",
    "source",
    "target",
    "method",
    "layer",
    "window_start",
    "window_end",
    "pool",
    "strength",
    "metric",
)
IGNORED = ("made_with", "output_dir", "name", "about")


@dataclass(frozen=True)
class Side:
    """One of the two runs."""

    letter: str
    folder: str
    name: str
    about: str
    headline: str


def write_comparison(first: Path, second: Path, out: Path) -> None:
    """Write a page about two finished runs.

    Raises:
        SteerkitError: a run is not finished, or the page can't be written.
    """
    with readable(f"{first} and {second}"):
        runs = (Run.read(first), Run.read(second))
        claims = [claims_of(run) for run in runs]
        sides = [
            Side(letter, str(run.folder), run.recipe.get("name", ""), run.recipe.get("about", ""), headline(run, own))
            for letter, run, own in zip("AB", runs, claims, strict=True)
        ]
        html = (
            environment()
            .get_template("compare.html.j2")
            .render(
                sides=sides,
                claims=claim_table(claims),
                settings=setting_table(runs),
                conditions=condition_table(runs),
                level=runs[0].level,
                same_prompts=_test_prompts(runs[0]) == _test_prompts(runs[1]),
                figures=list(_figures(runs)),
            )
        )
        with atomic(out) as temporary:
            temporary.write_text(html, encoding="utf-8", errors="replace")


def claim_table(claims: Sequence[Sequence[Claim]]) -> Table:
    """A row a claim that either run makes."""
    texts = dict.fromkeys(claim.text for own in claims for claim in own)
    by_text = [{claim.text: claim for claim in own} for own in claims]
    rows = [(text, *(cell for own in by_text for cell in _claim_cells(own.get(text)))) for text in texts]
    headings = ("claim", *(f"{name}, {letter}" for letter in "AB" for name in ("difference", "interval", "verdict")))
    return Table(headings, rows, 1)


def _claim_cells(claim: Claim | None) -> tuple[str, str, str]:
    return (claim.points, claim.interval, claim.verdict) if claim else (words.NOTHING,) * 3


def setting_table(runs: Sequence[Run]) -> Table:
    """Settings whose values differ."""
    flat = [dict(_flat({k: v for k, v in run.recipe.items() if k not in IGNORED})) for run in runs]
    names = dict.fromkeys(name for own in flat for name in own)
    rows = [(name, *(_shown(own.get(name)) for own in flat)) for name in names]
    return Table(("setting", "A", "B"), [row for row in rows if row[1] != row[2]], 3)


def _flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}".lstrip("."))
    else:
        yield name, value


def _shown(value: object) -> str:
    return words.NOTHING if value is None else str(value)


def condition_table(runs: Sequence[Run]) -> Table:
    """Means of the conditions and metrics that both runs have, and the difference of the two."""
    shown = [{metric.name: metric for metric in tabulated(run)} for run in runs]
    alike = {name: own for name, own in shown[0].items() if name in shown[1] and _alike(own, shown[1][name])}
    renamed: list[dict[str, str]] = [{}, _names_in(*runs)]
    by_key = [
        {_key(row, own): row for row in select(run.results, split="test") if row["metric"] in alike}
        for run, own in zip(runs, renamed, strict=True)
    ]
    confidence = float(runs[0].recipe.get("confidence", 0.95))
    rows = []
    for key, ours in by_key[0].items():
        theirs = by_key[1].get(key)
        if theirs is not None:
            delta, low, high = difference(ours, theirs, confidence)
            metric = alike[ours["metric"]]
            vector = "none" if ours["source"] == "none" else f"{ours['source']}-derived"
            layer = "" if ours["layer"] is None else f"block {words.short(ours['layer'])}"
            rows.append(
                (
                    str(ours["experiment"]),
                    words.method(ours["method"], runs[0].fitter),
                    vector,
                    str(ours["target"]),
                    layer,
                    words.window(ours["window_start"], ours["window_end"]),
                    f"{metric.title}, {words.unit(metric)}",
                    words.short(ours["strength"]),
                    estimate(ours, metric),
                    estimate(theirs, metric),
                    f"{words.value(delta, metric, signed=True)} {words.interval(low, high, metric, signed=True)}",
                )
            )
    headings = ("experiment", "method", "vector", "target", "block", "window", "metric", "strength", "A", "B", "B − A")
    return Table(headings, rows, 7)


def _alike(one: RunMetric, other: RunMetric) -> bool:
    """Whether values of a metric of two runs can be subtracted."""
    return (one.unit, one.bounds) == (other.unit, other.bounds)


def _key(row: Row, renamed: Mapping[str, str]) -> tuple[object, ...]:
    return tuple(renamed.get(row[name], row[name]) if name == "method" else row[name] for name in KEY)


def _names_in(first: Run, second: Run) -> dict[str, str]:
    """What the first run calls baselines of the second that have another name there, being told from other ones."""
    theirs = {settings: name for name, settings in first.baselines.items()}
    known = set(first.baselines)
    return {
        name: theirs[settings]
        for name, settings in second.baselines.items()
        if name not in known and settings in theirs
    }


def difference(ours: Row, theirs: Row, confidence: float) -> tuple[float, float, float]:
    """B − A of two rows of results.csv with Welch's interval; NaN where a side has no mean, or under two prompts."""
    from scipy.stats import t

    sides = [(row["mean"], row["sd"], row["n_prompts"]) for row in (theirs, ours)]
    if any(words.missing(value) for side in sides for value in side) or min(n for _, _, n in sides) < 2:
        return (math.nan,) * 3
    delta = sides[0][0] - sides[1][0]
    squared = [sd**2 / n for _, sd, n in sides]
    if not sum(squared):
        return delta, delta, delta
    freedom = sum(squared) ** 2 / sum(v**2 / (n - 1) for v, (_, _, n) in zip(squared, sides, strict=True))
    half = float(t.ppf((1 + confidence) / 2, freedom)) * math.sqrt(sum(squared))
    return delta, delta - half, delta + half


def _test_prompts(run: Run) -> list[object]:
    return [(row["id"], row["prompt"]) for row in run.jsonl("prompts.jsonl") if row.get("split") == "test"]


def _figures(runs: Sequence[Run]) -> Iterator[tuple[str, list[str]]]:
    for name in FIGURES:
        paths = [run.folder / f"figures/{name}.png" for run in runs]
        if any(path.is_file() for path in paths):
            yield name.capitalize(), [data_uri(path) if path.is_file() else "" for path in paths]
