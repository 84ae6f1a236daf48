"""What stands beside the claims, as it comes out: baselines, other metrics, text damage, cosines, windows, layers."""

from __future__ import annotations

from collections.abc import Callable

from steerkit.judging.metrics import JUDGED, OTHERS, RunMetric
from steerkit.report import judges, vectors, words
from steerkit.report.finding import Claim, beside
from steerkit.report.run import Row, Run, select


def beside_of(run: Run) -> list[Claim]:
    """All of it, in the order of the page."""
    return [
        *_score_against_baselines(run),
        *_unclaimed(run),
        *_damage(run),
        *_sources(run),
        *_cosine(run),
        *_windows(run),
        *_layers(run),
        *vectors.lens_lines(run),
        *vectors.projection_lines(run),
        *judges.agreement_lines(run),
    ]


def _score_against_baselines(run: Run) -> list[Claim]:
    if run.score.name == JUDGED:
        return []  # a claim
    rows = select(run.comparisons, experiment="baselines", strength=run.strength, metric=run.score.name)
    return [
        beside(run, row, f"{words.named(run.score)}, base-derived vector minus {row['vs_method']}")
        for row in rows
        if row["vs_method"] != "none"
    ]


def _unclaimed(run: Run) -> list[Claim]:
    """Metrics that nothing is claimed about, steered minus unsteered."""
    own = {"experiment": "transfer", "source": "base", "target": "reasoning", "strength": run.strength}
    return [
        beside(run, row, f"{_title(metric)}, steered minus unsteered")
        for metric in run.shown
        if not (metric.main and metric.sign)
        for row in select(run.comparisons, **own, metric=metric.name, vs_method="none")
    ]


def _damage(run: Run) -> list[Claim]:
    own = {"experiment": "transfer", "source": "base", "target": "reasoning", "metric": OTHERS}
    rows = select(run.comparisons, **own, strength=run.strength, vs_method="none")
    steered = run.fitted(**own, strength=run.strength)
    text = "Sentences that fit no label (text damage), steered minus unsteered"
    detail = "".join(
        f"steered {words.percent(row['mean'])} % of sentences; collapsed texts: {words.number(row['n_collapsed'])}"
        for row in steered[:1]
    )
    return [beside(run, row, text, detail) for row in rows]


def _sources(run: Run) -> list[Claim]:
    rows = select(
        run.comparisons,
        experiment="transfer",
        source="base",
        target="reasoning",
        vs_source="reasoning",
        strength=run.strength,
    )
    return [
        beside(run, row, f"{_title(metric)}, base-derived minus reasoning-derived vector")
        for metric in run.shown
        for row in select(rows, metric=metric.name)
    ]


def _cosine(run: Run) -> list[Claim]:
    base, reasoning = run.vector("base"), run.vector("reasoning")
    if base is None or reasoning is None:
        return []
    by_layer = base.cosine(reasoning)
    at = by_layer.get(run.layer)
    low, high = min(by_layer.values()), max(by_layer.values())
    text = f"Cosine of base- and reasoning-derived vectors: {words.number(at, 2)} at block {run.layer}"
    spread = f"{words.number(low, 2)} to {words.number(high, 2)} over blocks {min(by_layer)} to {max(by_layer)}"
    return [Claim(kind="beside", text=text, detail=f"{spread}; no interval: it is one pair of vectors")]


def _windows(run: Run) -> list[Claim]:
    """The fitted window against the latest one (0..5 when it was run), and the order of all of them."""
    rows = select(run.comparisons, experiment="offsets", strength=run.strength, vs_method=run.fitter)
    found = []
    for metric in run.shown:
        own = select(rows, metric=metric.name)
        if own:
            zero = select(own, vs_window_start=0.0)
            row = (zero or [max(own, key=lambda r: r["vs_window_start"])])[0]
            other = words.window(row["vs_window_start"], row["vs_window_end"])
            text = f"{_title(metric)}, window {words.window(*run.window)} minus {other}"
            order = _order(run, "offsets", metric, lambda r: words.window(r["window_start"], r["window_end"]))
            found.append(beside(run, row, text, order))
    return found


def _layers(run: Run) -> list[Claim]:
    """The steered block against the best other one, and the order of all of them."""
    rows = select(run.comparisons, experiment="layers", strength=run.strength, vs_method=run.fitter)
    found = []
    for metric in run.shown:
        own = [row for row in select(rows, metric=metric.name) if row["delta"] is not None]
        if own:
            row = min(own, key=lambda r: (_towards(metric) * r["delta"], r["vs_layer"]))
            text = f"{_title(metric)}, block {run.layer} minus {words.short(row['vs_layer'])}, the best other"
            order = _order(run, "layers", metric, lambda r: words.short(r["layer"]))
            found.append(beside(run, row, text, order))
    return found


def _order(run: Run, experiment: str, metric: RunMetric, name: Callable[[Row], str]) -> str:
    """The three best means of a sweep at the chosen strength, with intervals."""
    rows = run.fitted(experiment=experiment, strength=run.strength, metric=metric.name)
    rows = sorted((r for r in rows if r["mean"] is not None), key=lambda r: -_towards(metric) * r["mean"])[:3]
    percent = " %" if metric.of else ""
    each = [
        f"{name(r)} with {words.value(r['mean'], metric)}{percent} {words.interval(r['ci_low'], r['ci_high'], metric)}"
        for r in rows
    ]
    return f"{'highest' if _towards(metric) > 0 else 'lowest'}: {', '.join(each)}" if each else ""


def _towards(metric: RunMetric) -> int:
    """Which way a sweep is read: down only where down is better."""
    return metric.sign or 1


def _title(metric: RunMetric) -> str:
    name = words.named(metric)
    return name if len(name) == 1 else name[:1].upper() + name[1:]
