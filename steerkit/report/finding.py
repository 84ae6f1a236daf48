"""The finding in words: what the run's paired differences say, in both directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from steerkit.report import words
from steerkit.report.run import Row, Run, select


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One line of the finding.

    Attributes:
        kind: `claim` (the question that the run was made for) or `beside` (as it comes out).
        text: what is claimed, or compared.
        delta: difference, a share in [−1, 1] (of words for b, else of sentences); None when there is none.
        low: lower end of its interval.
        high: upper end.
        n: prompts that the difference is over.
        holds: whether a claim is borne out; for `beside` whether the interval lies above 0.
        clear: whether a difference beside is told from 0 after Holm's adjustment over its family.
        degenerate: whether all prompts gave the same value, which leaves no interval.
        detail: what belongs beside it.
    """

    kind: Literal["claim", "beside"] = "claim"
    text: str
    delta: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    holds: bool = False
    clear: bool = False
    degenerate: bool = False
    detail: str = ""

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if self.delta is None:
            return "cannot be told" if self.kind == "claim" else ""
        if self.kind == "claim":
            return "holds" if self.holds else "does not hold"
        if not self.clear:
            return "no clear difference"
        return "higher" if self.delta > 0 else "lower"

    @property
    def points(self) -> str:
        """The difference in percentage points."""
        return words.percent(self.delta, signed=True)

    @property
    def interval(self) -> str:
        """Its interval in percentage points."""
        return "degenerate" if self.degenerate else words.interval(self.low, self.high, signed=True)


def claim_of(row: Row, text: str, **more: Any) -> Claim:
    """A Claim of a row of comparisons.csv."""
    values: dict[str, Any] = {"holds": row["holds"] is True, **more}
    return Claim(
        text=text, delta=row["delta"], low=row["ci_low"], high=row["ci_high"], n=int(row["n_prompts"]),
        degenerate=row["degenerate"] is True, **values,
    )  # fmt: skip


def beside(run: Run, row: Row, text: str, detail: str = "") -> Claim:
    """A line of what stands beside the claims: its verdict is Holm's, over all comparisons like it."""
    family = select(run.comparisons, experiment=row["experiment"], metric=row["metric"])
    p, tested = row["p_holm"], sum(not words.missing(other["p"]) for other in family)
    adjusted = "" if words.missing(p) else f"p {words.p_value(p)} after Holm over {tested}"
    return claim_of(
        row, text, kind="beside", clear=not words.missing(p) and p < run.alpha,
        detail="; ".join(part for part in (detail, adjusted) if part),
    )  # fmt: skip


def claims_of(run: Run) -> list[Claim]:
    """The claims: base-derived vector on the reasoning model at the chosen strength, and on the base model."""
    own = ", its own collapsed texts counted as unsteered ones"
    sentences, baseline = f"judged {run.label} sentences", "every baseline of equal norm"
    found = _unsteered_backtracks(run)
    for metric, what, more in (
        ("keyword", "b", ""), ("keyword_uncollapsed", "b", own),
        ("judged_sentences", sentences, ""), ("judged_uncollapsed", sentences, own),
    ):  # fmt: skip
        found += _over_unsteered(run, metric, f"The base-derived vector raises {what} over unsteered{more}")
        if what != "b":
            found += _over_every_baseline(run, metric, f"The base-derived vector raises {what} over {baseline}{more}")
    if not run.same_model:
        found += _base_stays_below(run)
    return found


def headline(run: Run, claims: list[Claim]) -> str:
    """The finding in two or three sentences."""
    good = [claim for claim in claims if claim.holds]
    effect = [c for c in claims if c.kind == "claim" and "over unsteered" in c.text]
    if not effect:
        steered = run.fitted()
        what = "No claim is made here" if steered else "Nothing was steered here, so nothing is claimed"
        return f"{what}; what was found stands below."
    if all(c.delta is None for c in effect):
        first = "Nothing can be said: there is nothing to compare."
    elif len(good) == len(claims):
        first = "The effect is there on these prompts."
    elif any(c.holds for c in effect):
        first = "Part of the effect is there on these prompts."
    elif all(c.high is not None and c.high < 0 for c in effect):
        first = "The effect is not there on these prompts: the vector works the other way."
    else:
        first = "The effect is not shown on these prompts."
    same = " Base and reasoning model are one and the same model, so nothing here is about transfer." * run.same_model
    return f"{first}{_change(run)} {len(good)} of {len(claims)} claims hold.{same}"


def _change(run: Run) -> str:
    """From how much to how much, as a sentence after a space; empty where a value is missing."""
    parts = []
    for metric, name in (("judged_sentences", f"judged {run.label} sentences"), ("keyword", "b")):
        before = run.unsteered("reasoning", metric)
        after = run.main(metric)
        if before and after and not words.missing(after[0]["mean"]):
            unit = words.METRIC_UNITS[metric].lstrip("% ")
            parts.append(f"{name} {words.percent(before['mean'])} → {words.percent(after[0]['mean'])} % {unit}")
    where = (
        f"Base-derived vector on the reasoning model, strength {words.short(run.strength)} (chosen on other prompts)"
    )
    return f" {where}: {'; '.join(parts)}." if parts else ""


def _unsteered_backtracks(run: Run) -> list[Claim]:
    row = run.unsteered("reasoning", "keyword")
    if row is None:
        return []
    above = row["ci_low"] is not None and row["ci_low"] > 0 and row["degenerate"] is not True
    return [
        Claim(
            text="The unsteered reasoning model backtracks: its b is above 0", delta=row["mean"], low=row["ci_low"],
            high=row["ci_high"], n=int(row["n_prompts"]), holds=above, degenerate=row["degenerate"] is True,
        )
    ]  # fmt: skip


def _over_unsteered(run: Run, metric: str, text: str) -> list[Claim]:
    rows = select(
        run.comparisons, source="base", target="reasoning", method=run.fitter, layer=run.layer, pool="own",
        strength=run.strength, metric=metric, vs_method="none", vs_target="reasoning",
    )  # fmt: skip
    return [claim_of(rows[0], text)] if rows else []


def _over_every_baseline(run: Run, metric: str, text: str) -> list[Claim]:
    """One claim about all baselines: its figures are those of the baseline whose interval reaches lowest."""
    rows = select(run.comparisons, experiment="baselines", strength=run.strength, metric=metric)
    rows = [row for row in rows if row["vs_method"] != "none"]
    if not rows:
        return []
    closest = min(rows, key=lambda row: (row["ci_low"] is not None, row["ci_low"] or 0.0, row["delta"] or 0.0))
    beaten = [str(row["vs_method"]) for row in rows if row["holds"] is True]
    others = [str(row["vs_method"]) for row in rows if row["holds"] is not True]
    detail = f"figures against {closest['vs_method']}, where it is weakest; holds against {len(beaten)} of {len(rows)}"
    if beaten and others:
        detail += f", not against {', '.join(others)}"
    return [claim_of(closest, text, holds=not others, detail=detail)]


def _base_stays_below(run: Run) -> list[Claim]:
    """The base model's b against the unsteered reasoning model's, at every strength of both vectors."""
    rows = select(run.comparisons, experiment="transfer", target="base", metric="keyword", vs_target="reasoning")
    reasoning, base = run.unsteered("reasoning", "keyword"), run.unsteered("base", "keyword")
    if not rows or not reasoning or not base:
        return []
    text = "The base model's b stays below the unsteered reasoning model's at every strength"
    highest = max(rows, key=lambda row: (row["ci_high"] is None, row["ci_high"] or 0.0, row["delta"] or 0.0))
    below = all(row["ci_high"] is not None and row["ci_high"] < 0 and row["degenerate"] is not True for row in rows)
    steered = run.fitted(experiment="transfer", target="base", metric="keyword")
    filled = min(int(row["n_nonempty"]) for row in [base, *steered])
    values = [row["mean"] for row in steered if row["mean"] is not None]
    detail = (
        f"figures where it comes closest, {highest['source']}-derived at strength {words.short(highest['strength'])}; "
        f"b of the base model: unsteered {words.percent(base['mean'])} %, "
        f"steered at most {words.percent(max(values, default=None))} %; at least {filled} texts not empty"
    )
    unsteered_below = base["mean"] is not None and base["mean"] < (reasoning["mean"] or 0)
    return [claim_of(highest, text, holds=below and unsteered_below, detail=detail)]
