"""Figures and tables of the ablations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from steerkit.findings import Bars, Figure, Heatmap, Lines, Series, Table
from steerkit.report import words
from steerkit.stats.intervals import Estimate
from steerkit_plugins.rank1_lora.ablation_read import POSITIVE, Read
from steerkit_plugins.rank1_lora.ablation_sets import ALL, ATTENTION, IN_ATTENTION, IN_MLP, MLP
from steerkit_plugins.trained.numbers import shown

UNIT = "KL, nats a token"
SCALE = {
    "base || adapter": "KL(base ‖ adapter)",
    "full || base": "KL(full fine-tuning ‖ base)",
    "full || adapter": "KL(full fine-tuning ‖ adapter)",
}


def digits(value: float) -> int:
    """Digits behind the point for three that count."""
    return 3 if not value or not math.isfinite(value) else min(8, max(0, 2 - math.floor(math.log10(abs(value)))))


def nats(value: float) -> str:
    """A divergence with three digits that count; one digit where it is next to nothing."""
    if 0 < abs(value) < 1e-6:
        return f"{value:.0e}"
    return words.number(value, digits(value))


def estimated(estimate: Estimate) -> str:
    """A divergence with its interval."""
    return shown(estimate, digits(estimate.mean))


def figures(own: Read, heading: str) -> Iterator[Figure]:
    """Blocks, projections, groups of projections, and the removal."""
    blocks = own.named("block")
    yield Figure(
        name="ablation-blocks",
        title="Without one block's adapters",
        caption="KL divergence of the full model's predictions and those without the adapters of one block.",
        heading=heading,
        panels=(bars(own, blocks, [name.removeprefix("block ") for name in blocks], "One block's adapters zeroed"),),
    )
    yield Figure(
        name="ablation-projections",
        title="Without one projection's adapter",
        caption="The same for one projection of one block. Values are in the run's file ablation.csv.",
        heading=heading,
        panels=(heatmap(own),),
    )
    groups = [ALL, IN_MLP, IN_ATTENTION, *own.named("over all blocks")]
    groups = [name for name in groups if name in own.kinds]
    yield Figure(
        name="ablation-groups",
        title="Without a kind of adapter",
        caption="The same for all adapters of a kind, in all blocks; and for halves and groups of neighbouring blocks.",
        heading=heading,
        panels=(
            bars(own, groups, groups, "In all blocks"),
            bars(
                own,
                (near := own.named("half", "blocks")),
                [name.replace(" half", "\nhalf") for name in near],
                "Neighbouring blocks",
            ),
        ),
    )
    if curve := own.curve():
        yield Figure(
            name="ablation-removal",
            title="Removed one after the other",
            caption="The most harmless one first, chosen on half of the texts and measured on the others.",
            heading=heading,
            panels=(removal(curve),),
        )


def bars(own: Read, names: Sequence[str], called: Sequence[str], title: str) -> Bars:
    """A bar a set."""
    found = [own.mean(name) for name in names]
    return Bars(
        title=title,
        ylabel=UNIT,
        names=tuple(called),
        values=_numbers([each.mean for each in found]),
        low=_numbers([each.low for each in found]),
        high=_numbers([each.high for each in found]),
    )


def heatmap(own: Read) -> Heatmap:
    """A cell a projection and block; rows in the paper's order from the top."""
    places = [name.partition(".")[::2] for name in own.named("projection")]
    layers = sorted({int(layer) for layer, _ in places})
    parts = sorted({part for _, part in places}, key=lambda p: ([*ATTENTION, *MLP, p].index(p), p))[::-1]
    means = {name: own.kl(name).mean() for name in own.named("projection")}
    return Heatmap(
        title="One projection's adapter zeroed",
        xlabel="block",
        ylabel="projection",
        columns=tuple(map(str, layers)),
        rows=tuple(parts),
        values=tuple(
            tuple(float(means[key]) if (key := f"{layer}.{part}") in means else None for layer in layers)
            for part in parts
        ),
        unit=UNIT,
    )


def removal(curve: Sequence[Estimate]) -> Lines:
    """KL divergence by how many are gone; 0 before the first."""
    return Lines(
        title="Adapters removed",
        xlabel="removed",
        ylabel=UNIT,
        series=(
            Series(
                name="KL",
                x=tuple(float(n) for n in range(len(curve) + 1)),
                y=(0.0, *_numbers([each.mean for each in curve])),
                low=(0.0, *_numbers([each.low for each in curve])),
                high=(0.0, *_numbers([each.high for each in curve])),
            ),
        ),
    )


def _numbers(values: Sequence[float]) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(value) else float(value) for value in values)


def tables(own: Read) -> Iterator[Table]:
    """Sets with their singles, the scale, single projections, and the removal's order."""
    rows = []
    for name in own.named("part", "over all blocks", "half", "blocks", "block"):
        joint, alone = own.kl(name), own.alone(name)
        rows.append(
            (
                name,
                str(len(own.units[name])),
                estimated(own.mean(name)),
                estimated(own.estimate(own.loss(name))),
                estimated(own.estimate(alone, POSITIVE)),
                estimated(own.estimate(joint - alone)),
            )
        )
    yield Table(
        headings=(
            "zeroed",
            "projections",
            "KL, nats a token",
            "cross-entropy, more by",
            "sum of single KLs",
            "joint minus sum",
        ),
        rows=tuple(rows),
        title="Zeroed together, and one by one",
        note="Joint minus sum above 0: together the units matter more than one by one, as each makes up for others.",
    )
    rows_of_scale = [(SCALE[name], estimated(estimate)) for name, estimate in own.scale().items()]
    yield Table(headings=("models", "nats a token"), rows=tuple(rows_of_scale), title="For scale")
    singles = sorted(own.named("projection"), key=lambda name: -own.kl(name).mean())
    yield Table(
        headings=("zeroed", "KL, nats a token", "cross-entropy, more by"),
        rows=tuple((n, estimated(own.mean(n)), estimated(own.estimate(own.loss(n)))) for n in singles),
        title="Single projections, the strongest first",
        folded=True,
    )
    if curve := own.curve():
        orders = [model["removal"]["names"] for model in own.models]
        yield Table(
            headings=("removed", *(f"training {n}" for n in range(len(orders))), "KL, nats a token"),
            rows=tuple(
                (str(step + 1), *(order[step] for order in orders), estimated(estimate))
                for step, estimate in enumerate(curve)
            ),
            left=1 + len(orders),
            title="Removed one after the other",
            folded=True,
        )
