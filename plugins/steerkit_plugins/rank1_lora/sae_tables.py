"""Tables and the figure of SAEs on scalars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steerkit.findings import Bars, Figure, Table
from steerkit.report import words
from steerkit.stats.intervals import Estimate
from steerkit.units.marks import Which
from steerkit_plugins.rank1_lora.latents import Best
from steerkit_plugins.rank1_lora.sae.measured import Figure as Measured
from steerkit_plugins.rank1_lora.sae.measured import Measures
from steerkit_plugins.rank1_lora.sae.trained import Inference, TrainedSAE
from steerkit_plugins.trained.auroc_bars import auroc_bars
from steerkit_plugins.trained.numbers import shown

ENDS: Which = "sentence ends"
EVERY: Which = "all tokens"
WHERE: tuple[Which, ...] = (ENDS, EVERY)
TITLES = {ENDS: "among sentence ends", EVERY: "over all tokens"}


@dataclass(frozen=True)
class Row:
    """An SAE and what was found of it.

    Attributes:
        name: ``adapter.0.author``.
        model: whose scalars it reads.
        held_out: measures on the testing half.
        told: which tokens count → its best latent; without an entry where nothing can be chosen.
        gain: AUROC of that latent less that of the model's best scalar, on the testing half.
    """

    name: str
    model: str
    sae: TrainedSAE
    held_out: Mapping[Inference, Measures]
    told: Mapping[Which, Best]
    gain: Mapping[Which, Estimate]


def rebuilt_table(rows: Sequence[Row]) -> Table:
    """How well they rebuild."""
    made = []
    for row in rows:
        fixed, batch = row.held_out["threshold"], row.held_out["batch_topk"]
        made.append(
            (
                row.name,
                _measured(fixed.fvu, 3),
                _measured(batch.fvu, 3),
                _measured(fixed.fvu_contribution, 3),
                _measured(fixed.l0, 2),
                f"{fixed.alive} of {fixed.latents}",
                words.percent(fixed.dead),
                words.number(row.sae.told["batch_fvu"], 3),
            )
        )
    headings = (
        "SAE",
        "FVU, threshold",
        "FVU, BatchTopK",
        "FVU in contributions",
        "L0",
        "alive",
        "dead, %",
        "FVU in training",
    )
    return Table(
        headings=headings,
        rows=tuple(made),
        title="How well they rebuild the scalars of the testing half",
        note="FVU: squared error as a share of the squared deviation from the mean, in the numbers that the SAE reads; "
        "in contributions s · γ‖B‖ SAEs that read different numbers can be compared. L0: latents that are on at a "
        "token. A fixed threshold, set on the choosing half, unless BatchTopK is named. Dead: on at no token of the "
        "testing half. FVU in training is the mean over training batches, the first ones included, as the paper's code "
        "has it.",
    )


def told_table(rows: Sequence[Row], scalars: Mapping[str, tuple[str, Mapping[Which, Best]]]) -> Table:
    """What latents tell, below the best scalar of their model.

    Args:
        scalars: model → the names of its best scalars by place, and these.
    """
    made: list[tuple[str, ...]] = []
    strong = set[int]()
    for model, (called, best) in scalars.items():
        strong.add(len(made))
        cells = [cell for w in WHERE for cell in (shown(best[w].tested, 3) if w in best else words.NOTHING, "")]
        made.append((f"best scalar, {model}", called, *cells))
        for row in (row for row in rows if row.model == model):
            cells = []
            for where in WHERE:
                known = where in row.told
                cells.append(shown(row.told[where].tested, 3) if known else words.NOTHING)
                cells.append(shown(row.gain[where], 3) if known else words.NOTHING)
            made.append((f"best latent, {row.name}", _called(row.told), *cells))
    headings = ("told by", "which", *(h for w in WHERE for h in (f"AUROC {TITLES[w]}", "less the best scalar's")))
    return Table(
        headings=headings,
        rows=tuple(made),
        left=2,
        strong=frozenset(strong),
        title="What latents tell",
        note="Chosen on the choosing half, among sentence ends / over all tokens; AUROCs and paired differences on the "
        "testing half, with bootstrap intervals over traces.",
    )


def figure_of(name: str, label: str, rows: Sequence[Row], scalars: Mapping[str, Mapping[Which, Best]]) -> Figure:
    """FVU of each SAE, in the scale that all have in common; AUROC of its best latent beside the best scalar's."""
    fvu = [row.held_out["threshold"].fvu_contribution for row in rows]
    panels = [
        Bars(
            title="Variance unexplained, held out",
            ylabel="FVU",
            names=tuple(_lines(row.name, row.model) for row in rows),
            values=tuple(_number(own[0]) for own in fvu),
            low=tuple(_number(own[1]) for own in fvu),
            high=tuple(_number(own[2]) for own in fvu),
        )
    ]
    for where in WHERE:
        own = [(f"scalar\n{model}", best[where].tested) for model, best in scalars.items() if where in best]
        own += [(_lines(row.name, row.model), row.told[where].tested) for row in rows if where in row.told]
        panels.append(auroc_bars(f"AUROC {TITLES[where]}", own))
    return Figure(
        name=name,
        title="SAEs on the scalars",
        caption="Left: what SAEs leave unexplained of held-out scalars, as contributions s · γ‖B‖, by a fixed "
        "threshold. Others: how well the best scalar and each SAE's best latent tell that a "
        f"{label} sentence begins at the next token, chosen on one half of the traces, shown for the other. Bootstrap "
        "intervals over traces. Dashed: chance.",
        panels=tuple(panels),
        columns=3,
    )


def signed(best: Best, name: str) -> str:
    """A unit's name and its sign."""
    return f"{name} {'+' if best.sign > 0 else '−'}"


def _called(told: Mapping[Which, Best]) -> str:
    return " / ".join(signed(told[where], f"latent {told[where].number}") for where in WHERE if where in told)


def _measured(value: Measured, digits: int) -> str:
    middle, low, high = (words.number(each, digits) for each in value)
    return f"{middle} [{low}, {high}]"


def _lines(name: str, model: str) -> str:
    """``author`` above ``adapter.0``: names of bars are short."""
    return f"{name.removeprefix(f'{model}.')}\n{model}"


def _number(value: float) -> float | None:
    return None if words.missing(value) else float(value)
