"""All checks, in the order in which they are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from steerkit.checks import adapter, averages, hooks, rows, sites, strengths, texts, weights
from steerkit.checks.outcome import Check, Outcome, Skip
from steerkit.errors import SteerkitError

if TYPE_CHECKING:
    from steerkit.checks.probe import Probe

CHECKS = (
    Check("weights complete", weights.weights_are_complete),
    Check("adapter has an effect", adapter.has_an_effect),
    Check("hooks = hidden states", hooks.hidden_states),
    Check("the edit lands", hooks.edit_lands),
    Check("positions counted", hooks.positions_counted),
    Check("strength 0 = unsteered", strengths.zero_is_unsteered),
    Check("+s then -s = unsteered", strengths.plus_then_minus),
    *sites.CHECKS,
    Check("batch = single", rows.batch_is_single),
    Check("left-padded = alone", rows.left_padded_is_alone),
    Check("right-padded = alone", hooks.read_padded),
    Check("row order irrelevant", rows.order_is_irrelevant),
    Check("cache = no cache", rows.cache_is_no_cache),
    Check("greedy = HF generate", texts.greedy_is_hf),
    Check("refilled = alone", texts.refilled_is_alone),
    Check("extract = numpy", averages.extract_is_numpy),
    Check("dispatched = whole", weights.dispatched_is_whole),
    Check("wrapped = merged", weights.wrapped_is_merged),
    Check("half = float32", weights.dtypes_agree),
)


def run_checks(
    probe: Probe, checks: Sequence[Check] = CHECKS, on_check: Callable[[int, Check], None] | None = None
) -> list[Outcome]:
    """Make the checks one by one; one that breaks has failed, and says how.

    Args:
        on_check: called as (number, check) before each.
    """
    outcomes = []
    for number, check in enumerate(checks):
        if on_check:
            on_check(number, check)
        try:
            measured = check.measure(probe)
        except Skip as reason:
            outcomes.append(Outcome(check.name, None, None, None, str(reason)))
        except Exception as error:  # a model's own code may raise anything, and the other checks still count
            told = str(error).strip().splitlines() or [""]
            kind = "" if isinstance(error, SteerkitError) else f"{type(error).__name__}: "
            outcomes.append(Outcome(check.name, None, None, False, f"broke off: {kind}{told[0]}"))
        else:
            passed = measured.error <= measured.tolerance
            outcomes.append(Outcome(check.name, measured.error, measured.tolerance, passed, measured.detail))
    return outcomes
