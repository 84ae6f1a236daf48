"""Panels with a colour for each row and column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steerkit.findings import Heatmap
from steerkit.report.glyphs import drawn
from steerkit.report.style import PALE, axes_words, known, name_ticks, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL_TEXT = 0.085
"""Width of a character of a cell's text, in inches."""


def draw_heatmap(made: Figure, ax: Axes, panel: Heatmap, width: float) -> None:
    """A value a row and column, rows running upwards. `width`: of the panel, in inches."""
    import numpy as np

    axes_words(ax, panel.title, panel.xlabel, panel.ylabel, width - 0.7)
    grid = np.array([[value if known(value) else np.nan for value in row] for row in panel.values], dtype=float)
    there = grid[np.isfinite(grid)]
    low = min(float(there.min()), 0.0) if panel.zero and there.size else float(there.min()) if there.size else 0.0
    high = float(there.max()) if there.size else low
    span = (high - low) or 1.0
    ax.set_facecolor(PALE)  # a cell without a value
    image: Any = ax.imshow(grid, cmap="cividis", origin="lower", aspect="auto", vmin=low, vmax=low + span)
    ax.grid(visible=False)
    bar: Any = made.colorbar(image, ax=ax, label=wrapped(panel.unit, 42), pad=0.02, shrink=0.9)
    bar.outline.set_visible(False)
    _cells(ax, panel, (grid - low) / span, width)
    if panel.outlined is not None:
        at = panel.outlined
        ax.axvspan(at - 0.47, at + 0.47, fill=False, edgecolor="white", lw=2.6)
        ax.axvspan(at - 0.47, at + 0.47, fill=False, edgecolor="black", lw=1.0)
    ax.set_yticks(range(len(panel.rows)), [wrapped(name, 24, 1) for name in panel.rows])
    name_ticks(ax, [float(x) for x in range(len(panel.columns))], list(panel.columns), width=width - 1.4)


def _cells(ax: Axes, panel: Heatmap, shares: Any, width: float) -> None:
    """Texts in the cells, where there is room for them."""
    longest = max((len(text) for row in panel.texts for text in row), default=0)
    if not longest or longest * CELL_TEXT > (width - 1.4) / len(panel.columns):
        return
    for y, row in enumerate(panel.texts):
        for x, text in enumerate(row):
            ink = "white" if shares[y, x] < 0.5 else "black"  # cividis is dark where values are low
            ax.text(x, y, drawn(text), ha="center", va="center", fontsize=7.5, color=ink)
