"""Figures and tables of the experiment `faithfulness`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from steerkit.findings import Bars, Figure, Lines, Series, Table
from steerkit.report import words
from steerkit.stats.intervals import Estimate
from steerkit_plugins.trained.numbers import shown
from steerkit_plugins.trained.recovered import share_text
from steerkit_plugins.transcoder.arms import BASE, HYBRID, TARGET
from steerkit_plugins.transcoder.faithful_losses import PARTS
from steerkit_plugins.transcoder.faithful_read import Read

KL = "KL(target ‖ model), nats a token"
PARTIAL = (("first", "First k"), ("last", "Last k"), ("one", "One block"))


def table(read: Read, names: Mapping[str, str], shares: Mapping[str, float]) -> Table:
    """A row a model: divergence, loss, what is removed of the hybrid's divergence, features."""
    fixed = {TARGET: "target", HYBRID: "hybrid", BASE: "base"}
    rows = []
    for arm, name in (fixed | dict(names)).items():
        if not read.has(arm):
            continue
        cells = [
            shown(read.mean(read.values(arm, kind)), 4) if (arm, kind) != (TARGET, "kl") else "0"
            for kind in ("kl", "ce")
        ]
        own = arm in names
        alive, features = read.alive(arm) if own else (0, 1)
        cells += [
            share_text(read.removed(arm)) if own else words.NOTHING,
            shown(read.mean(read.active(arm)), 2) if own else words.NOTHING,
            f"{100 * (features - alive) / features:.1f} %" if own else words.NOTHING,
            f"{shares[arm]:.3%}" if own else words.NOTHING,
        ]
        rows.append((name, *cells))
    return Table(
        title="Faithfulness",
        headings=(
            "model",
            KL,
            "loss, nats a token",
            "of the hybrid's KL removed",
            "active features a token and block",
            "never active here",
            "trained numbers",
        ),
        rows=tuple(rows),
    )


def parts_table(read: Read) -> Iterator[Table]:
    """A row for each part of the base in the target."""
    if not read.parts:
        return
    rows = [
        (part.replace("+", " and "), *(shown(read.mean(read.values(PARTS, kind, part)), 4) for kind in ("kl", "ce")))
        for part in read.parts
    ]
    yield Table(
        title="Parts of the base in the target",
        headings=("part", KL, "loss, nats a token"),
        rows=tuple(rows),
        note="What fine-tuning changed there and nowhere else. Parts do not add up.",
    )


def figures(read: Read, names: Mapping[str, str], heading: str) -> Iterator[Figure]:
    """Partial replacements, errors of blocks, parts, and the ladder."""
    depth = read.depth
    if depth > 1:
        yield Figure(
            name="faithfulness-partial",
            title="The adapter in some blocks",
            caption="Divergence from the target with the adapter's blocks first, last or at one place, and the "
            "target's own MLPs in the others.",
            heading=heading,
            panels=tuple(_partial(read, names, *each) for each in PARTIAL),
        )
    yield Figure(
        name="faithfulness-blocks",
        title="Error and features by block",
        caption="Squared error of each block's output as a share of the target's squares: sums over a row's tokens, "
        "and the mean of each token's own ratio; features that are active at a token.",
        heading=heading,
        panels=(
            _layers(read, names, "error", "Error, sums", "share"),
            _layers(read, names, "ratio", "Error, by token", "share"),
            _layers(read, names, "active", "Active features", "a token"),
        ),
    )
    if read.parts:
        values = [read.mean(read.values(PARTS, "kl", part)) for part in read.parts]
        yield Figure(
            name="faithfulness-parts",
            title="Parts of the base in the target",
            caption="Divergence from the target when it has these parts of the base.",
            heading=heading,
            panels=(_bars("Where fine-tuning sits", [part.replace("+", "\n+ ") for part in read.parts], values),),
        )
    if len(names) > 1:
        across = [read.mean(read.active(arm)) for arm in names]
        kl = [read.mean(read.values(arm, "kl")) for arm in names]
        line = _series("adapters", [each.mean for each in across], kl, 0)
        label = "active features a token and block"
        ladder = Lines(title="The ladder", xlabel=label, ylabel=KL, series=(line,), bounds=(0.0, None))
        yield Figure(
            name="faithfulness-ladder",
            title="Sparsity and faithfulness",
            caption="Each adapter of the ladder: active features a token and block, and divergence from the target.",
            heading=heading,
            panels=(ladder,),
        )


def _partial(read: Read, names: Mapping[str, str], kind: str, title: str) -> Lines:
    places = range(read.depth) if kind == "one" else range(1, read.depth + 1)
    lines = []
    for look, (arm, name) in enumerate(names.items()):
        what = ["full" if kind != "one" and k == read.depth else f"{kind}.{k}" for k in places]
        lines.append(_series(name, list(places), [read.mean(read.values(arm, "kl", each)) for each in what], look))
    label = "block" if kind == "one" else "blocks with the adapter"
    return Lines(title=title, xlabel=label, ylabel="nats a token", series=tuple(lines), bounds=(0.0, None))


def _layers(read: Read, names: Mapping[str, str], kind: str, title: str, unit: str) -> Lines:
    lines = []
    for look, (arm, name) in enumerate(names.items()):
        values = [read.mean(own) for own in read.layers(arm, kind)]
        lines.append(_series(name, list(range(read.depth)), values, look))
    return Lines(title=title, xlabel="block", ylabel=unit, series=tuple(lines), bounds=(0.0, None))


def _series(name: str, x: Sequence[float], values: Sequence[Estimate], look: int) -> Series:
    order = np.argsort(x, kind="stable")
    own = [values[n] for n in order]
    return Series(
        name=name,
        x=tuple(float(x[n]) for n in order),
        y=tuple(each.mean for each in own),
        low=tuple(each.low for each in own),
        high=tuple(each.high for each in own),
        look=look,
    )


def _bars(title: str, names: Sequence[str], values: Sequence[Estimate]) -> Bars:
    return Bars(
        title=title,
        ylabel="nats a token",
        names=tuple(names),
        values=tuple(each.mean for each in values),
        low=tuple(each.low for each in values),
        high=tuple(each.high for each in values),
    )
