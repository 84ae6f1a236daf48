"""Panels of nodes in columns and weighted edges between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.findings import Graph
from steerkit.report.style import BLUE, DASHED, INK, VERMILLION, known, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEW = 12
"""Edges above which their weights are not written beside them."""


def draw_graph(ax: Axes, panel: Graph) -> None:
    """Columns from left to right, rows downwards. An edge is as wide as its weight is large, and dashed below 0."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import FancyArrowPatch

    ax.set_title(wrapped(panel.title, 70))
    ax.axis("off")
    boxes = [
        ax.text(
            column,
            -row,
            wrapped(name, 18, 2),
            ha="center",
            va="center",
            fontsize=8.5,
            zorder=4,
            bbox={"boxstyle": "round,pad=0.45", "facecolor": "white", "edgecolor": INK, "linewidth": 0.9},
        )
        for name, column, row in panel.nodes
    ]
    at = [(float(column), -float(row)) for _, column, row in panel.nodes]
    edges = [(a, b, w) for a, b, w in panel.edges if known(w) and w]
    top = max((abs(w) for _, _, w in edges), default=1.0)
    for a, b, weight in edges:
        color, line = (BLUE, "solid") if weight > 0 else (VERMILLION, DASHED)
        ax.add_patch(
            FancyArrowPatch(
                at[a],
                at[b],
                patchA=boxes[a].get_bbox_patch(),
                patchB=boxes[b].get_bbox_patch(),
                arrowstyle="-|>",
                mutation_scale=9,
                connectionstyle="arc3,rad=0.08" if at[a][0] != at[b][0] else "arc3,rad=0.35",
                linewidth=0.6 + 2.6 * abs(weight) / top,
                linestyle=line,
                color=color,
                alpha=0.85,
                zorder=2,
            )
        )
        if len(edges) <= FEW:
            x, y = (at[a][0] + at[b][0]) / 2, (at[a][1] + at[b][1]) / 2
            text = f"{weight:+.2g}".replace("-", "−")
            ax.text(
                x,
                y,
                text,
                fontsize=7.5,
                ha="center",
                va="center",
                zorder=3,
                bbox={"fc": "white", "ec": "none", "pad": 1},
            )
    xs, ys = [x for x, _ in at] or [0.0], [y for _, y in at] or [0.0]
    ax.set_xlim(min(xs) - 0.5, max(xs) + 0.5)
    ax.set_ylim(min(ys) - 0.6, max(ys) + 0.6)
    signs = {weight > 0 for _, _, weight in edges}
    keys = [
        Line2D([], [], color=color, lw=2, ls=line, label=name)
        for sign, color, line, name in ((True, BLUE, "-", "above 0"), (False, VERMILLION, DASHED, "below 0"))
        if sign in signs
    ]
    if keys:
        ax.legend(handles=keys, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=2)
