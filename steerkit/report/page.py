"""report.html: one file that needs nothing else, and runs nothing."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steerkit.errors import UNSAFE
from steerkit.findings import Claim, Figure, Findings, Marked, Table, Texts
from steerkit.report import facts, notes
from steerkit.report.cautions import cautions, heads
from steerkit.report.figures import Image
from steerkit.report.run import Part, Run
from steerkit.report.screen import tally
from steerkit.report.tabulate import condition_table, difference_table
from steerkit.store.files import atomic

if TYPE_CHECKING:
    from jinja2 import Environment

FILE = "report.html"
TEMPLATE = "report.html.j2"
PIXELS = 92
"""Of the page, for an inch of a figure."""


@dataclass(frozen=True)
class Picture:
    """A figure on the page.

    Attributes:
        number: counted through the page.
        wide, narrow: data URIs; `narrow` is for a phone.
        width: of the wide one in the page's pixels.
    """

    number: int
    figure: Figure
    wide: str
    narrow: str
    width: int

    @property
    def alt(self) -> str:
        """What the picture shows, for readers who can't see it."""
        return f"{self.figure.title}. {self.figure.caption}"


@dataclass(frozen=True)
class Section:
    """An experiment on the page.

    Attributes:
        id: of its heading.
        lead: whether it opens the page: its finding and its first picture stand there.
        rows: its rows of the run's tables, folded.
    """

    id: str
    findings: Findings
    pictures: tuple[Picture, ...]
    rows: tuple[Table, ...]
    lead: bool

    @property
    def claims(self) -> list[Claim]:
        return [claim for claim in self.findings.claims if claim.kind == "claim"]

    @property
    def beside(self) -> list[Claim]:
        return [claim for claim in self.findings.claims if claim.kind == "beside"]


def write_page(run: Run, images: Mapping[str, Image]) -> str:
    """Write the page; returns its file name."""
    sections = _sections(run, images)
    asked = [section for section, part in zip(sections, run.parts, strict=True) if part.asked]
    setup = [section for section, part in zip(sections, run.parts, strict=True) if not part.asked]
    if not asked:
        asked, setup = setup, []
    lead = next((section for section in sections if section.lead), None)
    told = cautions(run)
    html = (
        environment()
        .get_template(TEMPLATE)
        .render(
            run=run,
            lead=lead,
            claimed=[section for section in sections if section.claims],
            tally=tally(claim for section in sections for claim in section.claims),
            cautions=told,
            heads=heads(told),
            same=facts.same_models(run),
            sections=asked,
            setup=setup,
            data=facts.data_lines(run),
            spans=facts.span_table(run),
            notes=list(notes.method_notes(run)),
            measured=notes.measured(run),
            made_with=facts.made_with(run),
            times=facts.step_times(run),
            recipe=(run.folder / "recipe.yaml").read_text(encoding="utf-8"),
        )
    )
    write_html(run.folder / FILE, html)
    return FILE


def write_html(path: Path, html: str) -> None:
    """Write a page, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="replace")  # half a surrogate pair is no UTF-8


def _sections(run: Run, images: Mapping[str, Image]) -> list[Section]:
    found, count = [], 0
    for index, part in enumerate(run.parts, 1):
        pictures = []
        for figure in part.findings.figures:
            if figure.name in images:
                count += 1
                pictures.append(picture(count, figure, images[figure.name]))
        found.append(Section(f"part-{index}", part.findings, tuple(pictures), _rows(run, part), part is run.lead))
    return found


def _rows(run: Run, part: Part) -> tuple[Table, ...]:
    """Tables for what an experiment doesn't tabulate itself."""
    conditions = None if part.findings.tables else condition_table(run, part.name)
    return tuple(table for table in (conditions, difference_table(run, part.name)) if table)


def picture(number: int, figure: Figure, image: Image) -> Picture:
    return Picture(number, figure, data_uri(image.wide), data_uri(image.narrow), round(image.width * PIXELS))


def data_uri(png: bytes) -> str:
    """A PNG inside the page."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def legend(texts: Texts) -> Sequence[str]:
    """The kinds of marks that are in some texts."""
    marked: list[Marked] = [text for _, own, _ in texts.prompts for text in own]
    pieces = [piece for text in marked for piece in text.pieces]
    kinds = ("filled", "boxed", "underlined", "shade", "grey")
    return [kind for kind in kinds if any(getattr(piece, kind) for piece in pieces)]


def environment() -> Environment:
    """Templates that escape whatever they are given, and miss nothing."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_harmless,
    )
    made.globals["legend"] = legend
    return made


def _harmless(value: object) -> object:
    """A text without control characters, those among them that turn the direction of what follows on the page."""
    return UNSAFE.sub("\ufffd", value) if type(value) is str else value
