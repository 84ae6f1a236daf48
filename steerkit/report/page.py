"""report.html: one file that needs nothing else, and runs nothing."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from steerkit.files import atomic
from steerkit.report import facts, tabulate, words
from steerkit.report.beside import beside_of
from steerkit.report.finding import claims_of, headline
from steerkit.report.run import Run
from steerkit.report.texts import browse

FILE = "report.html"
TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class Section:
    """An experiment on the page: its figure as a data URI, what it shows, its table."""

    title: str
    caption: str
    image: str
    table: tabulate.Table


def write_page(run: Run, figures: Sequence[str]) -> str:
    """Write the page; returns its file name."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    claims = claims_of(run)
    shown, note = browse(run)
    html = environment.get_template(TEMPLATE).render(
        run=run,
        name=run.recipe.get("name", ""),
        about=run.recipe.get("about", ""),
        strength=words.short(run.strength),
        keywords=", ".join(run.recipe["score_judge"].get("keywords", ())),
        headline=headline(run, claims),
        claims=claims,
        beside=beside_of(run),
        sections=[_section(run, figure) for figure in figures],
        basis=facts.basis(run),
        comparisons=tabulate.comparison_table(run),
        choice=run.json("choice.json").get("how", ""),
        choosing=tabulate.experiment_table(run, "transfer", "choose"),
        data=facts.data_lines(run),
        spans=facts.span_table(run),
        shown=shown,
        note=note,
        made_with=facts.made_with(run),
        times=facts.stage_times(run),
        recipe=(run.folder / "recipe.yaml").read_text(encoding="utf-8"),
    )
    with atomic(run.folder / FILE) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="replace")  # half a surrogate pair is no UTF-8
    return FILE


def _section(run: Run, figure: str) -> Section:
    name = Path(figure).stem
    title, caption = {
        "transfer": (
            "Transfer between the models",
            f"Vectors fitted to the base and to the reasoning model's activations, added to either model at block "
            f"{run.layer}. At 0 nothing is added.",
        ),
        "baselines": (
            "Against baselines of equal norm",
            f"The reasoning model, steered at block {run.layer} with the base-derived vector and with baselines that "
            "add the same norm at the same tokens. The grey band is the unsteered model.",
        ),
        "offsets": (
            "Where the vector is read",
            "Base-derived vectors of other windows, all fitted to the same spans, on the reasoning model. Windows are "
            "token offsets from the first token of a labelled sentence; negative ones lie before it.",
        ),
        "layers": (
            "Which block",
            "The base-derived vector of each block, added at that block's output in the reasoning model.",
        ),
    }[name]
    data = base64.b64encode((run.folder / figure).read_bytes()).decode()
    return Section(title, caption, f"data:image/png;base64,{data}", tabulate.experiment_table(run, name))
