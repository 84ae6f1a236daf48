"""How figures look: Okabe-Ito colours with a marker and a line style each, so that no figure needs its colours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steerkit.interfaces import Metric
from steerkit.report.run import Row, Run
from steerkit.report.words import cut, factor, missing, unit
from steerkit.store.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = ("png", "svg")
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
BLACK, GREY = "#000000", "#6b6b6b"
RC: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "axes.linewidth": 0.8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "text.parse_math": False,
    "figure.facecolor": "white",
    "savefig.dpi": 180,
    "svg.hashsalt": "steerkit",
}


@dataclass(frozen=True)
class Look:
    """Colour, marker and line style of a series; `hollow` markers for the base model as target."""

    color: str
    marker: str
    line: str | tuple[int, tuple[int, ...]]
    hollow: bool = False


LOOKS = (
    Look(BLUE, "o", "-"),
    Look(ORANGE, "s", "--"),
    Look(GREEN, "^", "-."),
    Look(PURPLE, "D", ":"),
    Look(VERMILLION, "v", (0, (5, 1, 1, 1, 1, 1))),
    Look(SKY, "P", (0, (3, 1))),
    Look(BLACK, "X", (0, (1, 1))),
)


@contextmanager
def figure(run: Run, name: str, width: float, height: float) -> Iterator[Figure]:
    """A figure in inches, written to ``figures/NAME.png`` and ``.svg`` when the block ends."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(RC):
        made = Figure(figsize=(width, height), layout="constrained")
        yield made
        for kind in KINDS:
            with atomic(run.folder / f"figures/{name}.{kind}") as temporary:
                made.savefig(temporary, format=kind, metadata={"Date": None} if kind == "svg" else None)


def grid(count: int, most: int = 3) -> tuple[int, int]:
    """Rows and columns for so many panels."""
    columns = min(count, most)
    return -(-count // columns), columns


def panels(made: Figure, count: int, most: int = 3) -> list[Axes]:
    """Axes of so many panels, row by row."""
    axes: list[Axes] = list(made.subplots(*grid(count, most), squeeze=False).flat)
    for empty in axes[count:]:
        empty.set_axis_off()
    return axes[:count]


def series(
    ax: Axes, rows: Sequence[Row], xs: Sequence[float], look: Look, label: str, metric: Metric, *, shift: float = 0.0
) -> None:
    """A metric's means with their intervals; points without a value are left out."""
    scale = factor(metric)
    found = [
        (x + shift, r) for x, r in sorted(zip(xs, rows, strict=True), key=lambda p: p[0]) if not missing(r["mean"])
    ]
    at = [x for x, _ in found]
    face = "white" if look.hollow else look.color
    ax.plot(
        at,
        [scale * r["mean"] for _, r in found],
        color=look.color,
        marker=look.marker,
        linestyle=look.line,
        markerfacecolor=face,
        label=cut(label),
        zorder=3,
        clip_on=not at,  # markers at 0 are whole; an empty line has no extent to lay out
    )
    ends = [(x, scale * r["ci_low"], scale * r["ci_high"]) for x, r in found if not missing(r["ci_low"])]
    # Not error bars: an interval is not of the same length on both sides of the mean.
    if ends:
        xs, lows, highs = zip(*ends, strict=True)
        ax.vlines(xs, lows, highs, color=look.color, lw=1, zorder=2)


def unsteered_band(ax: Axes, row: Row | None, metric: Metric) -> None:
    """The unsteered model's mean and interval, right across the panel."""
    if row is None or missing(row["mean"]):
        return
    scale = factor(metric)
    ax.axhline(scale * row["mean"], color=GREY, lw=1, ls=(0, (4, 2)), label="unsteered", zorder=1)
    if not missing(row["ci_low"]):
        ax.axhspan(scale * row["ci_low"], scale * row["ci_high"], color=GREY, alpha=0.12, lw=0, zorder=0)


def panel(ax: Axes, title: str, metric: Metric, xlabel: str) -> None:
    """Title, axis labels with units, an axis from 0 where nothing lies below; says so when there is nothing to show."""
    ax.set_title(title)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(cut(unit(metric)))
    low, high = ax.get_ylim()
    if metric.limits[0] == 0:
        ax.set_ylim(0, high if high > 0 and ax.has_data() and low != high else 1)
    if not any(len(line.get_xdata()) for line in ax.get_lines()):  # type: ignore[arg-type]
        ax.set_yticks([])
        ax.text(0.5, 0.5, "no values: every text is empty", transform=ax.transAxes, ha="center", color=GREY)


def strength_ticks(ax: Axes, rows: Sequence[Row]) -> None:
    """Ticks where something was run."""
    norms = sorted({row["added_norm"] for row in rows})
    if len(norms) <= 9:
        ax.set_xticks(norms, [f"{norm:.3g}" for norm in norms])


def strength_label(run: Run) -> str:
    """Axis label of the norm that is added."""
    scale = run.recipe["fitter"].get("scale", "unit")
    return "strength (L2 norm added)" if scale == "unit" else f"L2 norm added (strength × {scale})"


def legend(made: Figure, ax: Axes, columns: int) -> None:
    """One legend for all panels, below them."""
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        made.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=3.2)


def heading(made: Figure, run: Run, what: str, rows: Sequence[Row]) -> None:
    """What is shown, on how many prompts, and what the bars are."""
    counts: list[Any] = sorted({int(r["n_prompts"]) for r in rows if r["n_prompts"]})
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}" if counts else "0"
    bars = f"bars: {run.level} intervals"
    made.suptitle(f"{what} (n = {n} test prompts; {bars})", fontsize=10, x=0.01, ha="left")
