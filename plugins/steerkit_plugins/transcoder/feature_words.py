"""Tables and figures of what features do and tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from steerkit.findings import Bars, Figure, Heatmap, Table
from steerkit.report import words
from steerkit.stats.intervals import Estimate
from steerkit.units.collected import CollectedUnits
from steerkit.units.marks import Which
from steerkit_plugins.trained.auroc_bars import auroc_bars
from steerkit_plugins.trained.halved import ENDS, EVERY, WHERE
from steerkit_plugins.trained.numbers import shown
from steerkit_plugins.trained.token_texts import TokenTexts
from steerkit_plugins.transcoder.feature_labels import FeatureLabels, Told

DECADES = (-6, -5, -4, -3, -2, -1, 0)
"""Edges of the frequencies' classes, powers of 10."""
TITLES = {ENDS: "Among sentence ends", EVERY: "Over all tokens"}


def strongest_tokens(own: CollectedUnits, column: int, tokens: TokenTexts) -> list[str]:
    """Texts of the tokens that a feature is strongest at, the commonest first; three at most."""
    texts = ["".join(tokens(c.trace, c.at, c.at + 1)) for c in own.contexts(column)]
    return [text for text, _ in Counter(texts).most_common(3)]


def ranked(told: Told, count: int) -> list[int]:
    """The features that tell best on the choosing half, the best first."""
    return [int(u) for u in np.argsort(-np.abs(told.choosing - 0.5), kind="stable")[:count]]


def block_table(features: Mapping[str, CollectedUnits]) -> Table:
    """How many features of each block are alive, and what they do; means over the models."""
    models = list(features.values())
    rows = []
    for layer in models[0].layout.layers:
        inside = [own.layer == layer for own in models]
        added = [own.contribution for own in models]
        rows.append(
            (
                str(layer),
                _mean(int((own.alive & at).sum()) for own, at in zip(models, inside, strict=True)),
                _mean((own.frequency[at].sum() for own, at in zip(models, inside, strict=True)), 2),
                *(
                    _mean((own.density()[number, at].sum() for own, at in zip(models, inside, strict=True)), 2)
                    for number in range(len(models[0].layout.regions))
                ),
                _mean((100 * own[at].sum() / own.sum() for own, at in zip(added, inside, strict=True)), 0),
            )
        )
    regions = models[0].layout.regions
    return Table(
        headings=("block", "alive", "L0", *(f"L0, {region}" for region in regions), "of what is added, %"),
        rows=tuple(rows),
        title="Features by block",
        note=f"Alive: active at any token that counts, of {models[0].layout.counts[0]:,} features. L0: features active "
        "at a token, in the mean. Added: f · ‖W_dec‖, the length that a feature adds to the MLP's output."
        + (f" Means over {len(models)} trainings." if len(models) > 1 else ""),
    )


def frequency_figure(name: str, features: Mapping[str, CollectedUnits]) -> Figure:
    """How often features are active, by block; and how many are alive."""
    first, models = next(iter(features.values())), list(features.values())
    layers = first.layout.layers
    columns = ("never", *(f"to 1e{edge}" for edge in DECADES[1:-1]), "to 1")
    counts = np.mean([[_classes(own.frequency[own.layer == layer]) for layer in layers] for own in models], axis=0)
    shares = 100 * counts / np.array(first.layout.counts)[:, None]
    return Figure(
        name=name,
        title="How often features are active",
        caption="Left: of each block's features, the share that is active at so many of the tokens that count. Right: "
        "the share that is active at any." + (f" Means over {len(models)} trainings." if len(models) > 1 else ""),
        heading=f"{first.tokens:,} tokens",
        panels=(
            Heatmap(
                title="Features by frequency",
                xlabel="share of tokens at which active",
                ylabel="block",
                columns=columns,
                rows=tuple(map(str, layers)),
                values=tuple(tuple(map(float, row)) for row in shares),
                texts=tuple(tuple(f"{value:.0f}" for value in row) for row in shares) if len(layers) <= 12 else (),
                unit="% of the block's features",
            ),
            Bars(
                title="Alive by block",
                ylabel="% of the block's features",
                names=tuple(map(str, layers)),
                values=tuple(float(100 - row[0]) for row in shares),
            ),
        ),
        columns=2,
    )


def auroc_figure(name: str, label: str, rows: Sequence[tuple[str, Mapping[Which, Estimate]]], n: int) -> Figure:
    """A bar for each of what tells, among sentence ends and over all tokens."""
    return Figure(
        name=name,
        title="What the features know",
        caption=f"How well each tells that a {label} sentence begins at the next token: the probability that a token "
        "which such a sentence follows scores higher than another one. Features are chosen on one half of the traces; "
        "all bars are of the other half, with bootstrap intervals over traces. Dashed: chance.",
        heading=f"n = {n} traces",
        panels=tuple(
            auroc_bars(
                TITLES.get(where, "Over all tokens"), [(called, own[where]) for called, own in rows if where in own]
            )
            for where in WHERE
        ),
        columns=2,
    )


def auroc_table(rows: Sequence[tuple[str, Mapping[Which, Estimate]]]) -> Table:
    """The bars' figures."""
    made = tuple(
        (called, *(shown(own[where], 3) if where in own else words.NOTHING for where in WHERE)) for called, own in rows
    )
    return Table(headings=("told by", "AUROC among sentence ends", "AUROC over all tokens"), rows=made)


def best_tables(
    features: Mapping[str, CollectedUnits],
    told: Mapping[str, FeatureLabels],
    tokens: TokenTexts,
    promoted: Mapping[str, Sequence[str]],
    count: int,
) -> Iterator[Table]:
    """The features that tell best among sentence ends, a table a model, with the lifts of all labels.

    Args:
        promoted: model → what its features make likelier, in words.
    """
    for model, labels in told.items():
        if ENDS not in labels.told:
            continue
        own, found = features[model], labels.told[ENDS]
        rows = []
        for u in ranked(found, count):
            turn = found.choosing[u] < 0.5
            rows.append(
                (
                    f"{own.layout.unit(u)} {'−' if turn else '+'}",
                    " · ".join(map(repr, strongest_tokens(own, u, tokens))),
                    promoted[model][u],
                    *(words.number(1 - a if turn else a, 3) for a in (found.choosing[u], found.testing[u])),
                    words.NOTHING if words.missing(float(found.p[u])) else words.p_value(float(found.p[u])),
                    *(words.number(float(lift), 2) for lift in labels.lifts[:, u]),
                )
            )
        yield Table(
            headings=(
                "feature",
                "strongest at",
                "makes likelier",
                "AUROC, choosing",
                "AUROC, testing",
                "p, corrected",
                *(f"lift, {label}" for label in labels.labels),
            ),
            rows=tuple(rows),
            left=3,
            title=f"Features that tell best among sentence ends, {model}",
            note="−: its being 0 tells. p on the testing half, in the direction of the choosing half: t tests with "
            f"errors over traces (Obuchowski 1997), corrected over all {len(found.p):,} features (Holm). Lift: the "
            "share of sentences with a label among those that begin where the feature is active, over that among all.",
            folded=len(told) > 1,
        )


def _classes(frequency: np.ndarray) -> np.ndarray:
    """[7] features by frequency: never, then by power of 10."""
    edges = 10.0 ** np.array(DECADES[1:-1])
    place = np.where(frequency > 0, 1 + np.searchsorted(edges, frequency), 0)
    return np.bincount(place, minlength=len(DECADES))


def _mean(values: Iterator[float], digits: int = 0) -> str:
    return words.number(float(np.mean(list(values))), digits)
