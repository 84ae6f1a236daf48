"""What an experiment found, as data: tables, figures, claims, cautions. The report draws it; nothing here does.

All of it is JSON, so that a run's page can be built again from its folder, and two runs be laid side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from steerkit.errors import SteerkitError

Cell = str
Number = float | None
"""A figure in the unit that its axis names; None where there is no value."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Headings and rows of text.

    Attributes:
        left: so many first columns hold words and are set on the left; the others hold numbers.
        strong: rows that stand out.
        note: a line below the table.
        folded: whether the page folds it away below its title.
    """

    headings: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]
    left: int = 1
    strong: frozenset[int] = frozenset()
    title: str = ""
    note: str = ""
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a panel: points with intervals.

    Attributes:
        x, y: places and values, in their order.
        low, high: ends of each point's interval; empty where there are none.
        look: number of the look (colour, marker and line style together) that it has in all panels.
        hollow: whether its markers are hollow and its line dotted: the same look for a companion.
        line: whether the points are joined.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[Number, ...]
    low: tuple[Number, ...] = ()
    high: tuple[Number, ...] = ()
    look: int = 0
    hollow: bool = False
    line: bool = True


@dataclass(frozen=True, kw_only=True)
class Band:
    """A grey band across a panel, with a line in its middle: what a value is without the thing that is varied.

    Attributes:
        low, high: a number each, or one a place of `x`.
    """

    name: str
    low: tuple[Number, ...]
    high: tuple[Number, ...]
    middle: Number = None
    x: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Lines with intervals.

    Attributes:
        ticks: (place, name) along x; numbers where left out.
        level: a dashed horizontal line (chance, zero).
        mark: a dotted vertical line (the block that is steered).
        bounds: lowest and highest value of y that is always shown.
        empty: what the panel says where no series has a value.
    """

    kind: Literal["lines"] = "lines"
    title: str
    xlabel: str
    ylabel: str
    series: tuple[Series, ...]
    band: Band | None = None
    ticks: tuple[tuple[float, str], ...] = ()
    level: float | None = None
    mark: float | None = None
    bounds: tuple[Number, Number] = (None, None)
    empty: str = ""


@dataclass(frozen=True, kw_only=True)
class Heatmap:
    """A value a row and column; rows run upwards.

    Attributes:
        values: [rows][columns].
        texts: what stands in each cell; nothing where left out.
        outlined: a column that is framed.
        unit: of the values, beside the colour bar.
        zero: whether the colours begin at 0.
    """

    kind: Literal["heatmap"] = "heatmap"
    title: str
    xlabel: str
    ylabel: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    values: tuple[tuple[Number, ...], ...]
    texts: tuple[tuple[str, ...], ...] = ()
    unit: str = ""
    outlined: int | None = None
    zero: bool = True


@dataclass(frozen=True, kw_only=True)
class Bars:
    """A bar a name, with intervals."""

    kind: Literal["bars"] = "bars"
    title: str
    ylabel: str
    names: tuple[str, ...]
    values: tuple[Number, ...]
    low: tuple[Number, ...] = ()
    high: tuple[Number, ...] = ()
    level: float | None = None


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A stretch of a text and how it is marked.

    Attributes:
        filled, boxed, underlined: three kinds of mark, which the text's legend explains.
        shade: 0 (none) to 5, the darker the higher.
        grey: what counts for nothing.
    """

    text: str
    filled: bool = False
    boxed: bool = False
    underlined: bool = False
    shade: int = 0
    grey: bool = False


@dataclass(frozen=True, kw_only=True)
class Marked:
    """A text with marks.

    Attributes:
        facts: figures about it, in a few words.
        flags: what is wrong with it (``collapsed``, ``empty``).
    """

    kind: Literal["marked"] = "marked"
    title: str
    pieces: tuple[Piece, ...]
    facts: str = ""
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Nodes in columns from left to right, and weighted edges between them.

    Attributes:
        nodes: (name, column, row).
        edges: (from, to, weight): numbers of nodes; a weight's sign has a colour, its size a width.
    """

    kind: Literal["graph"] = "graph"
    title: str
    nodes: tuple[tuple[str, int, int], ...]
    edges: tuple[tuple[int, int, float], ...]


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A node of a `Network`.

    Attributes:
        kind: which of the panel's kinds it is of; it has that number's look.
        label: stands beside it; empty for none.
    """

    x: float
    y: float
    kind: int = 0
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Network:
    """Dots at places along two axes, and weighted edges between them.

    Attributes:
        kinds: names of the dots' kinds.
        edges: (from, to, weight): numbers of dots; a weight's sign has a colour, its size a width.
        xticks, yticks: (place, name) along the axes.
    """

    kind: Literal["network"] = "network"
    title: str
    xlabel: str
    ylabel: str
    kinds: tuple[str, ...]
    dots: tuple[Dot, ...]
    edges: tuple[tuple[int, int, float], ...]
    xticks: tuple[tuple[float, str], ...]
    yticks: tuple[tuple[float, str], ...]


Panel = Annotated[Lines | Heatmap | Bars | Marked | Graph | Network, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Panels that belong together, drawn as one PNG and one SVG.

    Attributes:
        name: of its files, ``figures/NAME.png``.
        title: its heading on the page.
        caption: what it shows, in a sentence or two. A table below has the figures for readers who can't see it.
        heading: a line above the panels, inside the drawing.
        columns: panels side by side, at most.
        widths: shares of the width that the columns have; equal where left out.
    """

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    heading: str = ""
    columns: int = 3
    widths: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Texts to browse: for each prompt what was written under several conditions, side by side.

    Attributes:
        about: how they were picked, and what the marks mean.
        prompts: (the prompt's messages as (role, text), its texts, a summary).
    """

    title: str
    about: str
    prompts: tuple[tuple[tuple[tuple[str, str], ...], tuple[Marked, ...], str], ...]


Verdict = Literal["holds", "does not hold", "unclear", "cannot be told", "higher", "lower", "no clear difference", ""]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A line of the finding, with its figures in words, as the page prints them.

    Attributes:
        kind: `claim`: laid down beforehand. `beside`: as it comes out, corrected for how many there are.
        text: what is claimed, or compared.
        difference: in the metric's unit (shares in percentage points), with its sign; empty where there is none.
        interval: its interval in the same unit.
        n: prompts that it is over.
        detail: what belongs beside it.
    """

    kind: Literal["claim", "beside"] = "claim"
    text: str
    verdict: Verdict = ""
    difference: str = ""
    interval: str = ""
    n: int | None = None
    detail: str = ""

    @property
    def holds(self) -> bool:
        """Whether the claim is borne out."""
        return self.verdict == "holds"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What an experiment found.

    Attributes:
        title: the experiment's heading on the page.
        question: what it asks, in a sentence.
        finding: the answer in a sentence or two; the first experiment's that has one opens the page.
        qualifier: what has to be known beside the page's first finding, whichever experiment's that is; it stands
            right below it.
        claims: laid down beforehand; then what stands beside them.
        figures: drawn in this order; the first one of the first experiment stands on the first screen.
        tables: below the figures.
        texts: to browse.
        cautions: what a reader has to know before leaning on the figures, a line each.
        notes: how it was made, a line each; folded on the page.
        value: what other steps take from it, JSON.
        data: name of a ``.csv`` or ``.jsonl`` file in the run folder → its rows, written when the findings are.
    """

    title: str
    question: str = ""
    finding: str = ""
    qualifier: str = ""
    claims: tuple[Claim, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    texts: tuple[Texts, ...] = ()
    cautions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    value: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, kind in _PARTS.items():
            value = getattr(self, name)
            if isinstance(value, str) or not (isinstance(value, Sequence) and all(isinstance(v, kind) for v in value)):
                raise SteerkitError(f"Findings.{name}: a list of {kind.__name__} is wanted, not {value!r:.60}")

    def to_json(self) -> Any:
        """JSON of it, `data` left out."""
        return _FINDINGS.dump_python(replace(self, data={}), mode="json")

    @classmethod
    def from_json(cls, value: Any) -> Findings:
        """What `to_json` gave. Raises: pydantic.ValidationError where it is something else."""
        return _FINDINGS.validate_python(value)


_PARTS: Mapping[str, type] = {
    "claims": Claim,
    "figures": Figure,
    "tables": Table,
    "texts": Texts,
    "cautions": str,
    "notes": str,
}
_FINDINGS: TypeAdapter[Findings] = TypeAdapter(Findings)
