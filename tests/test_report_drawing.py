"""What the drawings show: values, intervals, limits, marks; and characters that fonts lack."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from report_run import TEXT, every_kind, transfer

from steerkit.findings import Band, Bars, Figure, Graph, Heatmap, Lines, Marked, Piece, Series
from steerkit.interfaces import Metric
from steerkit.report import figures, glyphs, style, textgrid
from steerkit.report.lines import shifts
from steerkit.report.marking import pieces
from steerkit.report.sound import problems_of
from steerkit.report.words import interval, named, percent, unit, value


def panel(**more: Any) -> Lines:
    series = more.pop("series", (Series(name="s", x=(0, 10, 20), y=(1, 2, 4), low=(0.5, 1.5, 3), high=(1.5, 3, 6)),))
    return Lines(title="t", xlabel="x", ylabel="y", series=series, **more)


def axes_of(*panels: Any) -> list[Any]:
    """The axes of a figure, drawn."""
    with figures.drawn(Figure(name="f", title="F", caption="c", panels=panels)) as made:
        return list(made.axes)


def segments(ax: Any) -> list[tuple[float, float, float]]:
    """(x, low, high) of the intervals."""
    found = [segment for own in ax.collections if hasattr(own, "get_segments") for segment in own.get_segments()]
    return [(float(a[0]), float(a[1]), float(b[1])) for a, b in found]


def test_points_and_intervals_stand_where_they_belong() -> None:
    (ax,) = axes_of(panel())
    assert ax.get_lines()[0].get_xydata().tolist() == [[0, 1], [10, 2], [20, 4]]
    assert segments(ax) == [(0, 0.5, 1.5), (10, 1.5, 3), (20, 3, 6)]


def test_a_missing_value_breaks_the_line() -> None:
    (ax,) = axes_of(panel(series=(Series(name="s", x=(0, 1, 2), y=(1, None, 3)),)))
    assert math.isnan(ax.get_lines()[0].get_ydata()[1])


def test_series_with_intervals_stand_side_by_side_and_others_stay() -> None:
    a = Series(name="a", x=(0, 10, 20), y=(1, 1, 1), low=(0, 0, 0), high=(2, 2, 2))
    bare = Series(name="c", x=(0, 1), y=(1, 1))
    left, right, none = shifts([a, replace(a, name="b"), bare])
    assert left == -right and none == 0 and 0 < right < 1
    assert shifts([a]) == [0.0] and shifts([bare, bare]) == [0.0, 0.0]
    assert max(shifts([replace(a, x=(0, 1, 100))] * 9)) <= 0.25  # by the narrowest gap


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [((0, None), (0.0, 6.36)), ((None, None), (0.17, 6.33)), ((-1, 8), (-1.0, 8.0)), ((2, 3), (0.17, 6.33))],
)
def test_bounds_are_shown_and_the_axis_ends_at_them(bounds: Any, expected: tuple[float, float]) -> None:
    (ax,) = axes_of(panel(bounds=bounds))
    assert ax.get_ylim() == pytest.approx(expected)


def test_levels_marks_bands_and_ticks() -> None:
    band = Band(name="b", low=(1,), high=(2,), middle=1.5)
    (ax,) = axes_of(panel(level=-1, mark=10, band=band, ticks=((0, "no"), (20, "yes"))))
    assert [text.get_text() for text in ax.get_xticklabels()] == ["no", "yes"]
    flat = [line.get_ydata()[0] for line in ax.get_lines() if list(line.get_xdata()) == [0, 1]]
    assert flat == [1.5, -1] and ax.get_ylim()[0] < -1
    assert any(list(line.get_xdata()) == [10, 10] for line in ax.get_lines())
    (ax,) = axes_of(panel())
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "10", "20"]  # where something was measured


def test_an_empty_panel_says_so_and_is_not_in_the_legend() -> None:
    series = (Series(name="s", x=(0, 1), y=(None, math.nan)),)
    (ax,) = axes_of(panel(series=series, empty="every text is empty", level=1))
    assert [text.get_text() for text in ax.texts] == ["every text is empty"] and not ax.get_lines()


def test_no_two_looks_differ_by_colour_alone() -> None:
    assert len({(look.marker) for look in style.LOOKS}) == len({str(look.line) for look in style.LOOKS}) == 7
    assert style.look_of(7) == style.look_of(0)


def test_heatmap_cells_have_colours_texts_and_a_frame() -> None:
    heat = Heatmap(
        title="t",
        xlabel="x",
        ylabel="y",
        columns=("a", "b"),
        rows=("1", "2"),
        values=((1.0, None), (3.0, 4.0)),
        texts=(("one", "none"), ("three", "four")),
        outlined=1,
        unit="%",
    )
    ax, bar = axes_of(heat)
    image = ax.get_images()[0]
    assert image.get_array().filled(-9).tolist() == [[1, -9], [3, 4]] and image.get_clim() == (0, 4)
    assert {t.get_text(): t.get_color() for t in ax.texts} == {
        "one": "white",
        "none": "black",
        "three": "black",
        "four": "black",
    }
    assert bar.get_ylabel() == "%" and len(ax.patches) == 2
    assert image.origin == "lower" and [t.get_text() for t in ax.get_yticklabels()] == ["1", "2"]
    assert axes_of(replace(heat, zero=False))[0].get_images()[0].get_clim() == (1, 4)
    wide = replace(heat, texts=(("a text that is far too long for its cell" * 3, ""), ("", "")))
    assert not axes_of(wide)[0].texts


def test_bars_with_intervals_and_without_a_value() -> None:
    bars = Bars(title="t", ylabel="%", names=("a", "b"), values=(2.0, None), low=(1.0, None), high=(4.0, None), level=3)
    (ax,) = axes_of(bars)
    assert [patch.get_width() for patch in ax.patches] == [2, 0]
    assert [text.get_text() for text in ax.texts] == [" no value"]
    ((start, end),) = [own.get_segments()[0] for own in ax.collections]
    assert (start[0], end[0], start[1]) == (1, 4, 0) and ax.yaxis_inverted()


def test_graph_edges_have_width_by_size_and_style_by_sign() -> None:
    nodes = (("a", 0, 0), ("b", 1, 0), ("c", 1, 1))
    (ax,) = axes_of(Graph(title="t", nodes=nodes, edges=((0, 1, 2.0), (0, 2, -1.0), (1, 2, 0.0))))
    arrows = [patch for patch in ax.patches if type(patch).__name__ == "FancyArrowPatch"]
    assert len(arrows) == 2 and arrows[0].get_linewidth() > arrows[1].get_linewidth()
    assert arrows[0].get_linestyle() != arrows[1].get_linestyle()
    assert {text.get_text() for text in ax.texts} == {"a", "b", "c", "+2", "−1"}
    assert [text.get_position() for text in ax.texts[:3]] == [(0, 0), (1, 0), (1, -1)]  # rows downwards


def test_marked_text_is_drawn_one_column_a_character() -> None:
    """A character that the font lacks is a square, not a warning, and nothing runs off the page."""
    text = "Wait, 等等 no ∈ 🤔 e\u0301 👩\u200d👩 \x07\u202e שלום. " + "等这里没有空格" * 20
    lines = textgrid.lines_of([Piece(text=text, filled=True)], 40, 9)
    assert "".join(character for character, _ in lines[0]).startswith("Wait, □□ no ∈ □ é □□ ")
    assert all(len(line) <= 41 and all(len(character) == 1 for character, _ in line) for line in lines)  # a space more
    (ax,) = axes_of(
        Marked(title="等等", pieces=(Piece(text=text, boxed=True), Piece(text="x", shade=5)), flags=("collapsed",))
    )
    assert ax.get_title(loc="left") == "□□ · collapsed"


def test_a_box_goes_on_where_a_shade_changes() -> None:
    (ax,) = axes_of(Marked(title="t", pieces=pieces("abcdef", boxed=[(1, 5)], shades=[(0, 3, 2), (3, 6, 4)])))
    boxes = [patch for patch in ax.patches if not patch.get_fill()]
    assert [(box.get_x(), box.get_width()) for box in boxes] == [(1, 4)]


@pytest.mark.parametrize("figure", [transfer(), *every_kind()], ids=lambda figure: figure.name)
def test_every_kind_with_texts_of_any_script(figure: Figure) -> None:
    """No glyph that the font lacks reaches the drawing (a warning is an error here), nor a formula."""
    from dataclasses import fields, is_dataclass

    def odd(thing: Any) -> Any:
        if isinstance(thing, str) and thing not in ("lines", "heatmap", "bars", "marked", "graph", "network"):
            return f"_等 $x^2$ 🤔 שלום \x00\n{thing}"
        if isinstance(thing, tuple):
            return tuple(map(odd, thing))
        if is_dataclass(thing) and not isinstance(thing, type):
            return replace(thing, **{field.name: odd(getattr(thing, field.name)) for field in fields(thing)})
        return thing

    (png,) = figures.render(odd(figure), "png", narrow=True)
    (svg,) = figures.render(odd(figure), "svg")
    assert png.startswith(b"\x89PNG") and b"<svg" in svg


def test_names_that_begin_with_an_underscore_are_in_the_legend() -> None:
    (ax,) = axes_of(panel(series=(Series(name="_x", x=(0, 1), y=(1, 2)),)))
    assert [name.strip() for name in ax.get_legend_handles_labels()[1]] == ["_x"]
    assert glyphs.drawn("a\u0301\u202e\tb") == "á b"


@pytest.mark.parametrize(
    ("panel", "said"),
    [
        (Heatmap(title="", xlabel="", ylabel="", columns=("a",), rows=(), values=()), "no rows or no columns"),
        (
            Heatmap(title="", xlabel="", ylabel="", columns=("a",), rows=("b",), values=((1, 2),)),
            "not 1 rows of 1 columns",
        ),
        (Bars(title="", ylabel="", names=("a",), values=(1, 2)), "values has 2 values, and there are 1 places"),
        (Graph(title="", nodes=(("a", 0, 0),), edges=((0, 1, 1.0),)), "nodes are 0 to 0"),
        (Marked(title="", pieces=(Piece(text="x", shade=6),)), "from 0 to 5"),
        (panel(band=Band(name="b", x=(0, 1), low=(0,), high=(1, 1))), "band 'b': low has 1 values, and there are 2"),
    ],
)
def test_data_that_does_not_fit_together_is_named(panel: Any, said: str) -> None:
    (problem,) = problems_of(Figure(name="f", title="F", caption="c", panels=(panel,)))
    assert problem.startswith("panel 1: ") and said in problem
    assert list(problems_of(Figure(name="f", title="F", caption="c", panels=()))) == ["has no panels"]


def test_pieces_make_up_the_text() -> None:
    """Each character is marked by the spans that it lies in, nested and overlapping ones too."""
    text = "Wait, wait. A waiter."
    spans = {
        "filled": [(0, 11)],
        "boxed": [(0, 5), (6, 11)],
        "underlined": [(3, 8), (4, 8), (9, 9), (20, 99)],
        "grey": [(12, 21)],
    }
    shades = [(0, 2, 3), (4, 7, 1)]
    found = pieces(text, **spans, shades=shades)  # type: ignore[arg-type]
    assert "".join(piece.text for piece in found) == text
    for place, piece in enumerate([own for own in found for _ in own.text]):
        for kind, own in spans.items():
            assert getattr(piece, kind) == any(a <= place < b for a, b in own), (place, kind)
        assert piece.shade == sum(shade for a, b, shade in shades if a <= place < b)
    assert pieces("") == () and pieces(TEXT) == (Piece(text=TEXT),)


@pytest.mark.parametrize(
    ("bounds", "number", "shown"),
    [
        ((0, 100), 59.123, "59.1"),
        ((0, 100), 0.0444, "0.04"),
        ((0, 100), 100.0, "100.0"),
        ((-1, 1), 0.1234, "0.123"),
        ((0, 0.01), 0.00123, "0.00123"),
        ((None, None), -1234.56, "−1,234.6"),
        ((0, None), 0.00123, "0.00123"),
        ((None, None), 0.0, "0.00"),
        ((None, None), math.nan, "–"),
        ((0, 100), -1e-9, "0.00"),
    ],
)
def test_values_in_their_own_unit(bounds: tuple[float | None, float | None], number: float, shown: str) -> None:
    assert value(number, Metric("x", "points", bounds)) == shown


def test_shares_are_in_percent() -> None:
    share = Metric("x", "share of words", (0, 1), title="b")
    assert (value(0.0123, share), unit(share), named(share)) == ("1.23", "% of words", "b")
    assert interval(-0.001, 0.02, share, signed=True) == "[−0.10, +2.00]"
    rate = Metric("x", "share of words", (0, None))
    assert (value(0.0123, rate), unit(rate)) == ("0.01", "share of words")
    assert [percent(x) for x in (None, float("nan"), 0.0123, 0.5, -1e-9)] == ["–", "–", "1.23", "50.0", "0.00"]
