"""Whether a figure's data fit together, so that drawing it can't fail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from steerkit.findings import Band, Bars, Figure, Graph, Heatmap, Lines, Marked, Network, Series


def problems_of(figure: Figure) -> Iterator[str]:
    """What is wrong with a figure, a sentence each; nothing where it can be drawn."""
    if not figure.panels:
        yield "has no panels"
    if figure.columns < 1:
        yield f"columns is {figure.columns}: at least 1"
    if figure.widths and (len(figure.widths) != columns_of(figure) or not all(0 < w < 1e3 for w in figure.widths)):
        yield f"widths needs {columns_of(figure)} positive numbers, one for each column of panels"
    for number, panel in enumerate(figure.panels, 1):
        for problem in _panel(panel):
            yield f"panel {number}: {problem}"


def columns_of(figure: Figure) -> int:
    """Panels that stand side by side."""
    return max(1, min(figure.columns, len(figure.panels)))


def _panel(panel: Lines | Heatmap | Bars | Marked | Graph | Network) -> Iterator[str]:
    match panel:
        case Lines():
            for series in panel.series:
                yield from _series(series)
            if panel.band:
                yield from _band(panel.band)
        case Heatmap():
            yield from _heatmap(panel)
        case Bars():
            yield from _lengths("bars", len(panel.names), values=panel.values)
            yield from _lengths("bars", len(panel.names), optional=True, low=panel.low, high=panel.high)
        case Graph():
            yield from _edges(panel.edges, len(panel.nodes))
        case Network():
            yield from _edges(panel.edges, len(panel.dots))
            if any(not 0 <= dot.kind < len(panel.kinds) for dot in panel.dots):
                yield f"a dot is of a kind that isn't there: kinds are 0 to {len(panel.kinds) - 1}"
        case Marked():
            if any(not 0 <= piece.shade <= 5 for piece in panel.pieces):
                yield "a piece's shade is a number from 0 to 5"


def _series(series: Series) -> Iterator[str]:
    name = f"series {series.name!r}"
    yield from _lengths(name, len(series.x), y=series.y)
    yield from _lengths(name, len(series.x), optional=True, low=series.low, high=series.high)
    if bool(series.low) != bool(series.high):
        yield f"{name}: has one end of its intervals; give low and high, or neither"


def _band(band: Band) -> Iterator[str]:
    places = len(band.x) or 1
    yield from _lengths(f"band {band.name!r}", places, low=band.low, high=band.high)


def _heatmap(panel: Heatmap) -> Iterator[str]:
    yield from _grid("values", panel.values, len(panel.rows), len(panel.columns))
    if panel.texts:
        yield from _grid("texts", panel.texts, len(panel.rows), len(panel.columns))
    if not panel.rows or not panel.columns:
        yield "the heatmap has no rows or no columns"
    if panel.outlined is not None and not 0 <= panel.outlined < len(panel.columns):
        yield f"outlined is {panel.outlined}, and there are {len(panel.columns)} columns"


def _grid(name: str, values: Sequence[Sequence[object]], rows: int, columns: int) -> Iterator[str]:
    if len(values) != rows or any(len(row) != columns for row in values):
        yield f"{name} is not {rows} rows of {columns} columns"


def _edges(edges: Sequence[tuple[int, int, float]], count: int) -> Iterator[str]:
    if any(not (0 <= a < count and 0 <= b < count) for a, b, _ in edges):
        yield f"an edge leads to a node that isn't there: nodes are 0 to {count - 1}"


def _lengths(name: str, length: int, *, optional: bool = False, **values: Sequence[object]) -> Iterator[str]:
    for what, found in values.items():
        if len(found) != length and not (optional and not found):
            yield f"{name}: {what} has {len(found)} values, and there are {length} places"
