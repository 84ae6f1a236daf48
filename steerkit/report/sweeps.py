"""Window start × strength and layer × strength: a heatmap, or a line with intervals at one strength."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steerkit.judging.metrics import RunMetric
from steerkit.report import style, words
from steerkit.report.run import Row, Run, select

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MANY = 14  # columns above which ticks are thinned and cells have no numbers


@dataclass(frozen=True)
class Sweep:
    """What is varied: how a row names its column, what the fitted vector's column is, and how the axis reads."""

    experiment: str
    column: Callable[[Row], float]
    own: float
    tick: Callable[[Row], str]
    label: str
    heading: str


def offsets(run: Run) -> None:
    """Vectors of other windows on the reasoning model."""
    draw(
        run,
        Sweep(
            "offsets",
            lambda r: float(r["window_start"]),
            float(run.window[0]),
            lambda r: words.window(r["window_start"], r["window_end"]),
            "window, tokens from the sentence's first token",
            f"Window that the vector is fitted to, block {run.layer}",
        ),
    )


def layers(run: Run) -> None:
    """The vector of each block, added at that block's output."""
    draw(
        run,
        Sweep(
            "layers",
            lambda r: float(r["layer"]),
            float(run.layer),
            lambda r: words.short(r["layer"]),
            "block whose output is steered (0-based)",
            f"Block, window {words.window(*run.window)}",
        ),
    )


def draw(run: Run, sweep: Sweep) -> None:
    """A panel a source and shown metric."""
    rows = run.fitted(experiment=sweep.experiment)
    strengths = sorted({row["strength"] for row in rows})
    sources = list(dict.fromkeys(str(row["source"]) for row in rows))
    several = len(strengths) > 1
    height = 1.9 + 0.34 * len(strengths) if several else 3.3
    wanted = [(source, metric) for source in sources for metric in run.shown]
    down, across = style.grid(len(wanted), min(len(run.shown), 3))
    with style.figure(run, sweep.experiment, 4.3 * max(across, 2), height * down) as made:
        axes = style.panels(made, len(wanted), across)
        for ax, (source, metric) in zip(axes, wanted, strict=True):
            own = sorted(select(rows, metric=metric.name, source=source), key=sweep.column)
            (heatmap if several else line)(made, ax, run, sweep, own, metric)
            if len(sources) > 1:
                ax.set_title(f"{source}-derived vector\n{ax.get_title(loc='left')}")
        if not several:
            style.legend(made, axes[0], 3)
        at = f"strength {', '.join(map(words.short, strengths))}"
        what = f"{sweep.heading}, {at}" if not several else sweep.heading
        if several:
            n = max((int(row["n_prompts"]) for row in rows), default=0)
            made.suptitle(
                f"{what} (mean over n = {n} test prompts; outlined: as in the other experiments)",
                fontsize=10,
                x=0.01,
                ha="left",
            )
        else:
            style.heading(made, run, what, rows)


def line(made: Figure, ax: Axes, run: Run, sweep: Sweep, rows: list[Row], metric: RunMetric) -> None:
    """Means with intervals; the fitted vector's own place is filled."""
    places = list(range(len(rows)))
    style.unsteered_band(ax, run.unsteered("reasoning", metric.name), metric)
    look = style.Look(style.BLUE, "o", "-", hollow=True)
    style.series(ax, rows, places, look, "steered reasoning model", metric)
    own = [(place, row) for place, row in zip(places, rows, strict=True) if sweep.column(row) == sweep.own]
    filled = style.Look(style.BLUE, "o", "none")
    style.series(ax, [row for _, row in own], [float(p) for p, _ in own], filled, "as in the other experiments", metric)
    _ticks(ax, rows, sweep)
    style.panel(ax, words.heading(metric), metric, sweep.label)


def heatmap(made: Figure, ax: Axes, run: Run, sweep: Sweep, rows: list[Row], metric: RunMetric) -> None:
    """Strength upwards, the mean in each cell; the column of the other experiments is outlined."""
    import numpy as np

    columns = {sweep.column(row): row for row in rows}
    strengths = sorted({row["strength"] for row in rows})
    grid = np.full((len(strengths), len(columns)), np.nan)
    for row in rows:
        if not words.missing(row["mean"]):
            grid[strengths.index(row["strength"]), list(columns).index(sweep.column(row))] = row["mean"]
    scale, there = words.factor(metric), grid[np.isfinite(grid)]
    low = 0.0 if metric.limits[0] == 0 or not there.size else float(there.min())
    high = max(float(there.max()), low) if there.size else low
    span = high - low
    image: Any = ax.imshow(
        scale * grid, cmap="cividis", origin="lower", aspect="auto", vmin=scale * low, vmax=scale * (low + (span or 1))
    )
    ax.grid(visible=False)
    made.colorbar(image, ax=ax, label=words.cut(words.unit(metric)), shrink=0.9)
    if len(columns) <= MANY:
        for (y, x), value in np.ndenumerate(grid):
            text, dark = words.value(value, metric), not value - low > 0.55 * span
            ax.text(x, y, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
    if sweep.own in columns:
        at = list(columns).index(sweep.own)
        ax.axvspan(at - 0.49, at + 0.49, fill=False, edgecolor="white", lw=1.6, ls=(0, (4, 2)))
    ax.set_yticks(range(len(strengths)), [words.short(s) for s in strengths])
    _ticks(ax, list(columns.values()), sweep)
    unsteered = run.unsteered("reasoning", metric.name)
    beside = f"; unsteered {words.value(unsteered['mean'], metric)}" if unsteered else ""
    ax.set_title(words.heading(metric) + beside)
    ax.set_xlabel(sweep.label)
    ax.set_ylabel("strength")


def _ticks(ax: Axes, rows: list[Row], sweep: Sweep) -> None:
    step = -(-len(rows) // MANY) or 1
    names = [sweep.tick(row) for row in rows]
    wide = max(map(len, names), default=0) > 3
    ax.set_xticks(
        range(0, len(rows), step), names[::step], rotation=40 if wide else 0, ha="right" if wide else "center"
    )
    ax.set_xlim(-0.5, len(rows) - 0.5)
