"""report.html: one file that needs nothing else, and runs nothing."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steerkit.errors import UNSAFE
from steerkit.judging.metrics import RunMetric
from steerkit.report import facts, judges, tabulate, vectors, words
from steerkit.report.beside import beside_of
from steerkit.report.cautions import cautions
from steerkit.report.finding import claims_of, headline
from steerkit.report.run import Run
from steerkit.report.texts import Shown
from steerkit.store.files import atomic

if TYPE_CHECKING:
    from jinja2 import Environment

FILE = "report.html"
TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class Section:
    """An experiment on the page: its figure as a data URI, what it shows, its table."""

    title: str
    caption: str
    image: str
    table: tabulate.Table | None


def write_page(run: Run, figures: Sequence[str], shown: Sequence[Shown], note: str) -> str:
    """Write the page; returns its file name."""
    claims = claims_of(run)
    html = (
        environment()
        .get_template(TEMPLATE)
        .render(
            run=run,
            name=run.recipe.get("name", ""),
            about=run.recipe.get("about", ""),
            strength=words.short(run.strength),
            difference=words.difference(run.shown),
            measured="; ".join(map(_measured, tabulate.tabulated(run))),
            marked=any(text.marked is not None for prompt in shown for text in prompt.texts),
            headline=headline(run, claims),
            claims=claims,
            cautions=cautions(run, claims),
            alpha=f"{run.alpha:g}",
            beside=beside_of(run),
            sections=[_section(run, figure) for figure in figures if figure.endswith(".png")],
            basis=facts.basis(run),
            comparisons=tabulate.comparison_table(run),
            choice=run.json("choice.json").get("how", ""),
            choosing=tabulate.experiment_table(run, "transfer", "choose"),
            data=facts.data_lines(run),
            spans=facts.span_table(run),
            shown=shown,
            note=note,
            shaded=(run.folder / "projections.jsonl").is_file(),
            made_with=facts.made_with(run),
            times=facts.stage_times(run),
            recipe=(run.folder / "recipe.yaml").read_text(encoding="utf-8"),
        )
    )
    with atomic(run.folder / FILE) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="replace")  # half a surrogate pair is no UTF-8
    return FILE


def _measured(metric: RunMetric) -> str:
    """What a metric is, in a few words."""
    by = "by the prompts' right answers" if metric.judge == "answer" else f"judge {metric.judge}"
    better = {1: ", up is better", -1: ", down is better", 0: ""}[metric.sign]
    return f"{metric.about or metric.title} ({metric.unit}, {by}{better})"


def _judge(run: Run, key: str) -> str:
    return str((run.recipe.get(key) or {}).get("name", ""))


def environment() -> Environment:
    """Templates that escape whatever they are given, and miss nothing."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_harmless,
    )


def _harmless(value: object) -> object:
    """A text without control characters, those among them that turn the direction of what follows on the page."""
    return UNSAFE.sub("\ufffd", value) if type(value) is str else value


def data_uri(figure: Path) -> str:
    """A PNG file inside the page."""
    return f"data:image/png;base64,{base64.b64encode(figure.read_bytes()).decode()}"


def _section(run: Run, figure: str) -> Section:
    name = Path(figure).stem
    title, caption = _words(run)[name]
    table = {
        "lens": vectors.lens_table,
        "projection": vectors.detection_table,
        "agreement": judges.agreement_table,
    }.get(name)
    made = table(run) if table else None if name == "texts" else tabulate.experiment_table(run, name)
    return Section(title, caption, data_uri(run.folder / figure), made)


def _words(run: Run) -> dict[str, tuple[str, str]]:
    """Title and caption of each figure."""
    offsets, layers = run.recipe.get("offsets") or {}, run.recipe.get("layers") or {}
    return {
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
            f"{str(offsets.get('source', 'base')).capitalize()}-derived vectors of other windows, all fitted to the "
            "same spans, on the reasoning model. Windows are token offsets from the first token of a labelled "
            "sentence; negative ones lie before it.",
        ),
        "layers": (
            "Which block",
            f"The {' and the '.join(f'{s}-derived' for s in layers.get('sources', ['base']))} vector of each block, "
            "added at that block's output in the reasoning model.",
        ),
        "lens": (
            "What the vectors say in words",
            "Left: the mean logit of keyword tokens when the vector, as long as strength 1 adds, is read by an "
            "unembedding. The grey band holds 95 % of random directions. Right: how alike the two vectors are. The "
            "dotted line is the steered block. No interval: these are single vectors.",
        ),
        "projection": (
            "Does the vector detect?",
            "Projection of unsteered test texts on the base-derived vector, centred on the mean activation before "
            "labelled sentences. Below: the probability that a token before a sentence with the label lies higher "
            "than another token, with bootstrap intervals over texts.",
        ),
        "agreement": (
            "Do the judges agree?",
            f"The {_judge(run, 'agreement')} judge against the {_judge(run, 'span_judge')} judge on sentences of the "
            f"reasoning model's texts, steered with the base-derived vector. Precision: the share of its {run.label} "
            "sentences that are the other's too; recall: the share of the other's that it finds. Intervals: "
            "bootstrap over prompts.",
        ),
        "texts": (
            "One prompt, unsteered and steered",
            "The first test prompt, not picked. The browser of texts below has more.",
        ),
    }
