"""Draws the figures of a run's findings: each one as PNG and SVG in ``figures/``, and as PNG inside the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from steerkit.findings import Bars, Figure, Graph, Heatmap, Lines, Marked, Network
from steerkit.report import style
from steerkit.report.graph import draw_graph
from steerkit.report.heatmap import draw_heatmap
from steerkit.report.lines import draw_bars, draw_lines
from steerkit.report.network import draw_network, height_of
from steerkit.report.run import Run
from steerkit.report.sound import columns_of
from steerkit.report.textgrid import draw_marked, fit, height
from steerkit.store.files import atomic

if TYPE_CHECKING:
    import matplotlib.figure
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

KINDS = ("png", "svg")
WIDE = {1: 6.4, 2: 8.2, 3: 10.4}
"""Inches of a figure's width by columns of panels; more columns are 3.4 each."""

TEXT_WIDTH, NARROW, DPI = 8.2, 4.3, 160
LINE, TALLEST = 0.18, 120.0
"""Inches of a line of the legend, and of the tallest figure."""


@dataclass(frozen=True)
class Image:
    """A figure as the page shows it.

    Attributes:
        wide: PNG.
        narrow: PNG with the panels below each other, for a phone.
        width: of the wide one, in inches.
    """

    wide: bytes
    narrow: bytes
    width: float


def draw_all(run: Run) -> dict[str, Image]:
    """Draw every figure of a run's findings and write ``figures/NAME.png`` and ``.svg``; returns them by name."""
    images = {}
    for part in run.parts:
        for figure in part.findings.figures:
            files = render(figure, *KINDS)
            for kind, data in zip(KINDS, files, strict=True):
                with atomic(run.folder / f"figures/{figure.name}.{kind}") as temporary:
                    temporary.write_bytes(data)
            images[figure.name] = image_of(figure, files[0])
    return images


def files_of(images: Mapping[str, Image]) -> list[str]:
    """The files that `draw_all` wrote, relative to the run folder."""
    return [f"figures/{name}.{kind}" for name in images for kind in KINDS]


def image_of(figure: Figure, png: bytes = b"") -> Image:
    """A figure as the page shows it. `png`: of the wide one, where it is there already."""
    (narrow,) = render(figure, "png", narrow=True)
    return Image(png or render(figure, "png")[0], narrow, width_of(figure))


def width_of(figure: Figure) -> float:
    """Inches of a figure's width."""
    columns = columns_of(figure)
    text = any(isinstance(panel, Marked | Network) for panel in figure.panels)
    return max(WIDE.get(columns, 3.4 * columns), TEXT_WIDTH * text)


def render(figure: Figure, *kinds: str, narrow: bool = False) -> list[bytes]:
    """A figure's bytes as ``png`` or ``svg``. The same figure always gives the same bytes."""
    found = []
    with drawn(figure, narrow=narrow) as made:
        for kind in kinds:
            data = BytesIO()
            made.savefig(data, format=kind, dpi=DPI, metadata={"Date": None} if kind == "svg" else None)
            found.append(data.getvalue())
    return found


@contextmanager
def drawn(figure: Figure, *, narrow: bool = False) -> Iterator[matplotlib.figure.Figure]:
    """A figure as matplotlib's, laid out."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = 1 if narrow else columns_of(figure)
    width = NARROW if narrow else width_of(figure)
    shares = [1.0] * columns if narrow or not figure.widths else list(figure.widths)
    panel_widths = [width * share / sum(shares) for share in shares]
    down = -(-len(figure.panels) // columns)
    heights = [
        max(
            _height(panel, panel_widths[i])
            for i, panel in enumerate(figure.panels[row * columns : (row + 1) * columns])
        )
        for row in range(down)
    ]
    with matplotlib.rc_context(style.RC):
        made = Canvas(layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06, wspace=0.03, hspace=0.03))
        grid = made.subplots(down, columns, squeeze=False, height_ratios=heights, width_ratios=shares)
        axes: list[Axes] = list(grid.flat)
        for spare in axes[len(figure.panels) :]:
            spare.set_axis_off()
        for index, (ax, panel) in enumerate(zip(axes, figure.panels, strict=False)):
            _panel(made, ax, panel, panel_widths[index % columns])
        lines = _legend(made, axes, width) + _heading(made, figure.heading, width)
        made.set_size_inches(width, min(sum(heights) + LINE * lines + 0.15, TALLEST))
        made.draw_without_rendering()
        made.set_layout_engine("none")  # it is laid out: once is enough for all files
        for ax, panel in zip(axes, figure.panels, strict=False):
            if isinstance(panel, Marked):
                fit(ax)
        yield made


def _height(panel: Lines | Heatmap | Bars | Marked | Graph | Network, width: float) -> float:
    match panel:
        case Marked():
            return height(panel, width - 0.2) + 0.45
        case Heatmap():
            return 1.6 + 0.3 * min(max(len(panel.rows), 3), 30)
        case Bars():
            return 1.0 + 0.34 * max(len(panel.names), 2)
        case Graph():
            rows = {row for _, _, row in panel.nodes}
            return 1.2 + 0.8 * min((max(rows) - min(rows) + 1) if rows else 1, 12)
        case Network():
            return height_of(panel)
        case Lines():
            return 2.75


def _panel(
    made: matplotlib.figure.Figure, ax: Axes, panel: Lines | Heatmap | Bars | Marked | Graph | Network, width: float
) -> None:
    match panel:
        case Lines():
            draw_lines(ax, panel, width)
        case Heatmap():
            draw_heatmap(made, ax, panel, width)
        case Bars():
            draw_bars(ax, panel, width)
        case Marked():
            draw_marked(ax, panel, width - 0.2)
        case Graph():
            draw_graph(ax, panel)
        case Network():
            draw_network(ax, panel, width)


def _heading(made: matplotlib.figure.Figure, heading: str, width: float) -> int:
    """A line above the panels; returns the lines that it takes."""
    if not heading:
        return 0
    text = style.wrapped(heading, int(width * 0.92 * style.CHARACTERS))
    made.suptitle(text, fontsize=10, x=0.01, ha="left")
    return text.count("\n") + 2


def _legend(made: matplotlib.figure.Figure, axes: list[Axes], width: float) -> int:
    """One legend for all panels, below them, each name once; returns the lines that it takes."""
    found: dict[str, Artist] = {}
    for ax in axes:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    if not found:
        return 0
    longest = max(map(len, found))
    columns = max(1, min(len(found), 4, int(width / (0.075 * longest + 0.7))))
    made.legend(list(found.values()), list(found), loc="outside lower center", ncols=columns, handlelength=3.0)
    return -(-len(found) // columns) + 1
