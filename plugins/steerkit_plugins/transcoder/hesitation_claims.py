"""What the experiment `hesitation` calls its conditions, and what it claims about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from steerkit.findings import Claim
from steerkit.report import words
from steerkit_plugins.experiments.measured import capital
from steerkit_plugins.trained.measured import Measured
from steerkit_plugins.trained.recovered import gain, most_claim, sign_of
from steerkit_plugins.transcoder.arms import HYBRID, TARGET
from steerkit_plugins.transcoder.hesitation_config import (
    BARE,
    BIASES,
    CONTEXTS,
    LOGITS,
    MATCHED,
    NEGATED,
    ONLY,
    RANDOM,
    WITHOUT,
    HesitationConfig,
    Way,
)
from steerkit_plugins.transcoder.hesitation_variants import arm_of

ADAPTER = "adapter"
MOST = 0.5
"""Share of what the adapter does above which features are said to suffice."""
BY = {CONTEXTS: "by contexts", LOGITS: "by logits"}


def names_of(config: HesitationConfig) -> dict[str, str]:
    """Arm → its name, in the order of tables and figures."""
    of_kind = {
        WITHOUT: "adapter without them",
        MATCHED: "adapter without others like them",
        RANDOM: "adapter without random others",
        ONLY: "hybrid + them and decoder biases",
        BARE: "hybrid + them alone",
        NEGATED: f"target + {words.short(config.negated_scale)} × them",
    }
    found = {TARGET: "target", HYBRID: "hybrid", ADAPTER: "adapter"}
    for way in config.chosen_by:
        found |= {arm_of(kind, way): f"{called} ({BY[way]})" for kind, called in of_kind.items()}
    return found | {BIASES: "hybrid + decoder biases alone"}


def claims_of(main: Measured, others: Sequence[Measured], ways: Sequence[Way]) -> Iterator[Claim]:
    """What was laid down beforehand, for each way of choosing; then the same differences in other metrics."""
    for text, pair in _pairs(main, ways).items():
        yield main.claim(text, *pair, 0.0)
    yield from _sufficient(main, ways)
    yield from main.beside(_more(main, ways))
    for measured in others:
        pairs = _pairs(measured, ways)
        yield from measured.beside({text: (higher, lower) for text, (lower, higher) in pairs.items()})


def _pairs(measured: Measured, ways: Sequence[Way]) -> dict[str, tuple[str, str]]:
    """Claim → the arm that is to have less of the metric, and the one that is to have more."""
    name, found = words.named(measured.metric), dict[str, tuple[str, str]]()
    for way in ways:
        arms = {kind: arm_of(kind, way) for kind in (WITHOUT, MATCHED, RANDOM, ONLY, BARE, NEGATED)}
        them = f"them ({BY[way]})"
        found |= {
            f"Removing {them} lowers {name} more than removing others like them": (arms[WITHOUT], arms[MATCHED]),
            f"Removing {them} lowers {name} more than removing random others": (arms[WITHOUT], arms[RANDOM]),
            f"Adding {them} with decoder biases raises {name} above the hybrid's": (HYBRID, arms[ONLY]),
            f"Adding {them} alone raises {name} above the hybrid's": (HYBRID, arms[BARE]),
            f"Negating {them} on the target lowers {name}": (arms[NEGATED], TARGET),
        }
    return {text: pair for text, pair in found.items() if measured.has(*pair)}


def _sufficient(main: Measured, ways: Sequence[Way]) -> Iterator[Claim]:
    """That what is added to the hybrid brings back most of what all of the adapter does."""
    ends = HYBRID, ADAPTER
    for way in ways:
        for kind, how in ((ONLY, "with decoder biases"), (BARE, "alone")):
            if main.has(arm := arm_of(kind, way), *ends):
                text = (
                    f"Adding them ({BY[way]}) {how} brings back more than {100 * MOST:g} % of what the adapter does in "
                    f"{words.named(main.metric)}"
                )
                share = gain(main.values, arm, ends, sign_of(main, ends), main.confidence)
                yield most_claim(text, share, MOST, main.difference(arm, HYBRID).n)


def _more(main: Measured, ways: Sequence[Way]) -> dict[str, tuple[str, str]]:
    """Differences that nothing was laid down about, the first arm minus the second."""
    name = capital(words.named(main.metric))
    found = {
        f"{name}: adapter minus hybrid": (ADAPTER, HYBRID),
        f"{name}: hybrid with decoder biases minus hybrid": (BIASES, HYBRID),
    }
    for way in ways:
        of = f"({BY[way]})"
        found[f"{name}: adapter minus adapter without them {of}"] = ADAPTER, arm_of(WITHOUT, way)
        found[f"{name}: adapter minus adapter without others like them {of}"] = ADAPTER, arm_of(MATCHED, way)
    return {text: pair for text, pair in found.items() if main.has(*pair)}
