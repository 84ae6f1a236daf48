"""Findings made of results: claims, tables and panels, as an experiment puts them together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from steerkit.artifacts import Condition
from steerkit.errors import SteerkitError
from steerkit.findings import Band, Bars, Claim, Figure, Heatmap, Lines, Series, Table
from steerkit.interfaces import Metric
from steerkit.judging.metrics import ACCURACY, OTHERS, RunMetric
from steerkit.report import words
from steerkit.steps.results import Results, Row

QUALITY = ("texts not empty", "collapsed", "mean words", "longest repeat", "distinct‑2", "perplexity")
MANY = 14  # columns above which cells of a heatmap have no numbers


def claim(metric: RunMetric, row: Row, text: str, *, holds: bool | None = None, detail: str = "") -> Claim:
    """A claim that was laid down beforehand, of a comparison's row or a condition's: it holds on its own.

    Args:
        metric: what the figures are of.
        holds: whether it is borne out; as the row says when left out.
        detail: what belongs beside it.
    """
    value = row.get("delta", row.get("mean"))
    borne_out = row["holds"] if holds is None else holds
    return Claim(
        text=text,
        verdict="cannot be told" if words.missing(value) else "holds" if borne_out else "does not hold",
        n=int(row["n_prompts"]),
        detail=detail,
        **_figures(metric, row, value),
    )


def beside(results: Results, row: Row, text: str, detail: str = "") -> Claim:
    """A comparison that nothing was claimed about: its verdict is Holm's, over all comparisons like it."""
    metric, p = results.metric(row["metric"]), row["p_holm"]
    family = [other for other in results.comparisons if other["metric"] == row["metric"]]
    tested = sum(not words.missing(other["p"]) for other in family)
    adjusted = "" if words.missing(p) else f"p {words.p_value(p)} after Holm over {tested}"
    clear = not words.missing(p) and p < results.alpha
    told = "higher" if clear and row["delta"] > 0 else "lower" if clear else "no clear difference"
    return Claim(
        kind="beside",
        text=text,
        verdict="" if words.missing(row["delta"]) else told,  # type: ignore[arg-type]
        n=int(row["n_prompts"]),
        detail="; ".join(part for part in (detail, adjusted) if part),
        **_figures(metric, row, row["delta"]),
    )


def compared(
    results: Results, ours: Condition, other: Condition, text: str, *, metric: str = "", laid_down: bool = True
) -> Claim:
    """A pair's difference, the first one minus the other, as a line of the finding.

    Args:
        text: what is claimed, or compared. A claim holds where `ours` is higher (lower, where the metric says that less
            is better); for "lowers the score" take the lower one as `other`.
        metric: by its name; the score judge's own when left out.
        laid_down: whether it was claimed beforehand and holds on its own, or stands beside the claims, where its
            verdict is corrected for how many comparisons there are.

    Raises:
        SteerkitError: the experiment's `pairs` lack the pair.
    """
    counted = results.metric(metric) if metric else results.score
    row = results.comparison(ours, other, counted.name)
    if row is None:
        raise SteerkitError(
            f"experiment {results.name}: {dict(ours.labels)} is compared with {dict(other.labels)}, which is not among "
            "its pairs(); add Pair(ours=..., other=...) there"
        )
    return claim(counted, row, text) if laid_down else beside(results, row, text)


def bars(
    results: Results,
    name: str,
    conditions: Mapping[str, Condition],
    *,
    title: str,
    caption: str,
    metrics: Sequence[RunMetric] | None = None,
) -> Figure:
    """A figure with a bar a condition, with intervals; a panel a metric.

    Args:
        name: of its files.
        conditions: name below the bar → condition.
        metrics: those that reports show when left out.
    """
    panels = []
    for metric in results.shown if metrics is None else metrics:
        rows = [results.row(condition, metric.name) for condition in conditions.values()]
        line = series("", rows, list(map(float, range(len(rows)))), metric)
        heading, unit = words.heading(metric), words.cut(words.unit(metric))
        panels.append(
            Bars(title=heading, ylabel=unit, names=tuple(conditions), values=line.y, low=line.low, high=line.high)
        )
    n = max((int(row["n_prompts"]) for row in results.rows), default=0)
    heading = f"n = {n} prompts, {results.level} intervals"
    return Figure(name=name, title=title, caption=caption, heading=heading, panels=tuple(panels))


def _figures(metric: RunMetric, row: Row, value: Any) -> dict[str, Any]:
    if words.missing(value):
        return {}
    degenerate = row["degenerate"] is True
    return {
        "difference": words.value(value, metric, signed=True),
        "interval": "degenerate" if degenerate else words.interval(row["ci_low"], row["ci_high"], metric, signed=True),
    }


def table(
    results: Results,
    columns: Mapping[str, Callable[[Condition], str]],
    *,
    strong: Callable[[Condition], bool] = lambda condition: False,
    title: str = "",
) -> Table:
    """A row a condition: what names it, means with intervals, and what keeps the figures honest.

    Args:
        columns: heading → text, of the columns that name a condition.
        strong: which rows stand out.
    """
    metrics = tabulated(results.metrics)
    perplexity = any(not words.missing(row["perplexity"]) for row in results.rows)
    quality = QUALITY if perplexity else QUALITY[:-1]
    rows = []
    for condition in results.conditions:
        own = {row["metric"]: row for row in results.rows if row["condition"] == condition.id}
        figures = _quality(next(iter(own.values())))[: len(quality)]
        named = (column(condition) for column in columns.values())
        rows.append((*named, *(estimate(own.get(metric.name), metric) for metric in metrics), *figures))
    headings = (*columns, *(f"{metric.title}, {words.unit(metric)}" for metric in metrics), *quality)
    marked = frozenset(index for index, condition in enumerate(results.conditions) if strong(condition))
    return Table(headings=headings, rows=tuple(rows), left=len(columns), strong=marked, title=title)


def tabulated(metrics: Iterable[RunMetric]) -> list[RunMetric]:
    """The metrics that tables of conditions have a column of."""
    metrics = list(metrics)
    return [m for m in metrics if m.shown] + [m for m in metrics if m.name in (OTHERS, ACCURACY)]


def estimate(row: Row | None, metric: Metric) -> str:
    """A mean with its interval, shares in percent."""
    if row is None or words.missing(row["mean"]):
        return words.NOTHING
    return f"{words.value(row['mean'], metric)} {words.interval(row['ci_low'], row['ci_high'], metric)}"


def _quality(row: Row) -> tuple[str, ...]:
    return (
        words.number(row["n_nonempty"]),
        words.number(row["n_collapsed"]),
        words.number(row["mean_words"], 1),
        words.number(row["longest_repeat"]),
        words.number(row["distinct_2"], 2),
        words.number(row["perplexity"], 2),
    )


def series(name: str, rows: Sequence[Row], x: Sequence[float], metric: Metric, look: int = 0, **more: Any) -> Series:
    """A line of rows' means with their intervals, in the metric's unit."""
    scale = words.factor(metric)
    ordered = sorted(zip(x, rows, strict=True), key=lambda pair: pair[0])

    def column(key: str) -> tuple[float | None, ...]:
        return tuple(None if words.missing(row[key]) else scale * row[key] for _, row in ordered)

    return Series(
        name=name,
        x=tuple(float(place) for place, _ in ordered),
        y=column("mean"),
        low=column("ci_low"),
        high=column("ci_high"),
        look=look,
        **more,
    )


def band(row: Row | None, metric: Metric, name: str = "unsteered") -> Band | None:
    """A condition's mean and interval, right across a panel."""
    if row is None or words.missing(row["mean"]):
        return None
    scale = words.factor(metric)
    low, high = ((None if words.missing(row[end]) else scale * row[end]) for end in ("ci_low", "ci_high"))
    return Band(name=name, low=(low,), high=(high,), middle=scale * row["mean"])


def panel(metric: Metric, xlabel: str, lines: Sequence[Series], **more: Any) -> Lines:
    """A panel of a metric: its title, its unit, an axis from 0 where nothing lies below."""
    return Lines(
        title=words.heading(metric),
        xlabel=xlabel,
        ylabel=words.cut(words.unit(metric)),
        series=tuple(lines),
        bounds=(0.0 if metric.limits[0] == 0 else None, None),
        empty="no values: every text is empty",
        **more,
    )


def over_strength(
    results: Results,
    lines: Mapping[str, Sequence[Condition]],
    metrics: Sequence[RunMetric],
    xlabel: str,
    *,
    unsteered: Condition | None = None,
    hollow: frozenset[str] = frozenset(),
    looks: Mapping[str, int] | None = None,
) -> tuple[Lines, ...]:
    """A panel a metric: its mean against the norm added, a line for each group of conditions.

    Args:
        unsteered: shown as a band across the panels.
        hollow: names of lines with hollow markers.
        looks: number of each line's look; their order when left out.
    """
    found = []
    for metric in metrics:
        drawn = []
        for index, (name, conditions) in enumerate(lines.items()):
            rows = [results.row(condition, metric.name) for condition in conditions]
            look = looks[name] if looks else index
            at = [row["added_norm"] for row in rows]
            drawn.append(series(name, rows, at, metric, look, hollow=name in hollow))
        norms = sorted({x for line in drawn for x in line.x})
        ticks = tuple((norm, words.short(norm)) for norm in norms) if len(norms) <= 9 else ()
        across = band(results.row(unsteered, metric.name), metric) if unsteered else None
        found.append(panel(metric, xlabel, drawn, ticks=ticks, band=across))
    return tuple(found)


def over_places(
    results: Results,
    groups: Mapping[str, Sequence[Condition]],
    place: Callable[[Condition], tuple[float, str]],
    xlabel: str,
    *,
    own: Callable[[Condition], bool],
    unsteered: Condition,
) -> tuple[Lines | Heatmap, ...]:
    """What is varied × strength, a panel a group and metric: a heatmap, or a line with intervals at one strength.

    Args:
        groups: title → conditions.
        place: a condition's place along x, and that place's name.
        own: whether a condition is the one that the other experiments have, which is marked.
    """
    found: list[Lines | Heatmap] = []
    for title, conditions in groups.items():
        ordered = sorted(conditions, key=place)
        strengths = sorted({float(condition.labels["strength"]) for condition in ordered})
        for metric in results.shown:
            made = (_heatmap if len(strengths) > 1 else _line)(results, ordered, metric, place, xlabel, own, unsteered)
            found.append(replace_title(made, title) if len(groups) > 1 else made)
    return tuple(found)


def replace_title(panel: Any, title: str) -> Any:
    """A panel with a line above its title."""
    return replace(panel, title=f"{title}\n{panel.title}")


def _line(
    results: Results,
    conditions: Sequence[Condition],
    metric: RunMetric,
    place: Callable[[Condition], tuple[float, str]],
    xlabel: str,
    own: Callable[[Condition], bool],
    unsteered: Condition,
) -> Lines:
    rows = [results.row(condition, metric.name) for condition in conditions]
    at = [float(number) for number in range(len(rows))]
    marked = [(x, row) for x, row, condition in zip(at, rows, conditions, strict=True) if own(condition)]
    lines = [series("steered model", rows, at, metric, hollow=True)]
    if marked:
        filled = [row for _, row in marked]
        lines.append(series("as the recipe says", filled, [x for x, _ in marked], metric, line=False))
    ticks = tuple((x, place(condition)[1]) for x, condition in zip(at, conditions, strict=True))
    return panel(metric, xlabel, lines, ticks=ticks, band=band(results.row(unsteered, metric.name), metric))


def _heatmap(
    results: Results,
    conditions: Sequence[Condition],
    metric: RunMetric,
    place: Callable[[Condition], tuple[float, str]],
    xlabel: str,
    own: Callable[[Condition], bool],
    unsteered: Condition,
) -> Heatmap:
    columns = list(dict.fromkeys(place(condition) for condition in conditions))
    strengths = sorted({float(condition.labels["strength"]) for condition in conditions})
    scale = words.factor(metric)
    values: list[list[float | None]] = [[None] * len(columns) for _ in strengths]
    texts = [[""] * len(columns) for _ in strengths]
    outlined = None
    for condition in conditions:
        mean = results.row(condition, metric.name)["mean"]
        at = strengths.index(float(condition.labels["strength"])), columns.index(place(condition))
        if not words.missing(mean):
            values[at[0]][at[1]] = scale * mean
            texts[at[0]][at[1]] = words.value(mean, metric)
        if own(condition):
            outlined = at[1]
    plain = words.value(results.row(unsteered, metric.name)["mean"], metric)
    return Heatmap(
        title=f"{words.heading(metric)}; unsteered {plain}",
        xlabel=xlabel,
        ylabel="strength",
        columns=tuple(name for _, name in columns),
        rows=tuple(words.short(strength) for strength in strengths),
        values=tuple(map(tuple, values)),
        texts=tuple(map(tuple, texts)) if len(columns) <= MANY else (),
        unit=words.cut(words.unit(metric)),
        outlined=outlined,
        zero=metric.limits[0] == 0,
    )
