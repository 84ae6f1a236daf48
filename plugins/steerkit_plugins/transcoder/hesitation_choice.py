"""Which features make a model turn back, by where they are active and by what they add; and others to hold them
against. U features of all blocks, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from steerkit.units.collected import CollectedUnits


def by_contexts(
    collected: CollectedUnits, before: Mapping[str, np.ndarray], *, contexts: int, least: int
) -> np.ndarray:
    """[U] bool: features at least `least` of whose strongest contexts are tokens right before a turn.

    Args:
        before: trace → [T] bool, the tokens that a sentence with the label follows.
        contexts: so many of the strongest are looked at.
    """
    table = collected.strongest()
    place = np.arange(len(table)) - np.searchsorted(table.unit, table.unit)
    hit = [before[collected.names[trace]][at] for trace, at in zip(table.trace, table.at, strict=True)]
    counted = np.array(hit, bool) & (place < contexts)
    return np.bincount(table.unit[counted], minlength=collected.layout.units) >= least


def by_scores(scores: np.ndarray, alive: np.ndarray, count: int) -> np.ndarray:
    """[U] bool: the `count` features with the highest scores; those that aren't alive or above 0 never.

    Args:
        scores: [U], such as what a feature adds to the logits of words, on the mean.
    """
    order = np.argsort(-np.where(alive, scores, -np.inf), kind="stable")[:count]
    found = np.zeros(len(scores), bool)
    found[order] = True
    return found & alive & (scores > 0)


def matched(
    contribution: np.ndarray, layer: np.ndarray, alive: np.ndarray, chosen: np.ndarray, *, near: int, seed: int
) -> np.ndarray:
    """[U] bool: for each chosen feature another one of like contribution, each once.

    The strongest chosen feature comes first, as few others are like it. Its match is drawn from the `near` others of
    its block whose contribution has the smallest ratio to its own; from those of all blocks where its own has none
    left.

    Args:
        contribution: [U] mean of f · ‖s W_dec‖ over tokens; above 0 where a feature is alive.
        layer: [U] block of each feature.
        chosen: [U] bool.

    Returns:
        Features that are alive and not chosen; fewer than are chosen where there are not so many.
    """
    generator = np.random.default_rng(seed)
    free = alive & ~chosen
    size = np.log(np.where(alive, contribution, 1.0))
    found = np.zeros(len(alive), bool)
    for unit in sorted(np.flatnonzero(chosen & alive).tolist(), key=lambda unit: -contribution[unit]):
        own = np.flatnonzero(free & (layer == layer[unit]))
        own = own if len(own) else np.flatnonzero(free)
        if not len(own):
            break
        nearest = own[np.argsort(np.abs(size[own] - size[unit]), kind="stable")[:near]]
        drawn = int(generator.choice(nearest))
        found[drawn], free[drawn] = True, False
    return found


def drawn(alive: np.ndarray, chosen: np.ndarray, count: int, seed: int) -> np.ndarray:
    """[U] bool: so many random features that are alive and not chosen; all where there are not so many."""
    others = np.flatnonzero(alive & ~chosen)
    found = np.zeros(len(alive), bool)
    found[np.random.default_rng(seed).choice(others, min(count, len(others)), replace=False)] = True
    return found


def by_block(which: np.ndarray, counts: Sequence[int]) -> list[list[int]]:
    """[U] bool → numbers of the features within each block."""
    parts = np.split(which, np.cumsum(counts)[:-1])
    return [np.flatnonzero(part).tolist() for part in parts]
