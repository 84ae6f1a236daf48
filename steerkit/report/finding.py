"""The finding in words: what the run's paired differences say, in both directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from steerkit.judging.metrics import JUDGED, RunMetric
from steerkit.report import words
from steerkit.report.run import Row, Run, select


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One line of the finding.

    Attributes:
        kind: `claim` (the question that the run was made for) or `beside` (as it comes out).
        text: what is claimed, or compared.
        delta: difference, or a mean, in the tables' unit; None when there is none.
        low: lower end of its interval.
        high: upper end.
        n: prompts that the difference is over.
        holds: whether a claim is borne out; for `beside` whether the interval lies above 0.
        clear: whether a difference beside is told from 0 after Holm's adjustment over its family.
        degenerate: whether all prompts gave the same value, which leaves no interval.
        detail: what belongs beside it.
        metric: what the difference is of; None when there is none.
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
    metric: RunMetric | None = None

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
        """The difference in its metric's unit: for shares in percentage points."""
        return words.value(self.delta, self.metric, signed=True) if self.metric else words.NOTHING

    @property
    def interval(self) -> str:
        """Its interval in the same unit."""
        return "degenerate" if self.degenerate else words.interval(self.low, self.high, self.metric, signed=True)


def claim_of(run: Run, row: Row, text: str, **more: Any) -> Claim:
    """A Claim of a row of comparisons.csv."""
    values: dict[str, Any] = {"holds": row["holds"] is True, **more}
    return Claim(
        text=text,
        delta=row["delta"],
        low=row["ci_low"],
        high=row["ci_high"],
        n=int(row["n_prompts"]),
        degenerate=row["degenerate"] is True,
        metric=run.metric(row["metric"]),
        **values,
    )


def beside(run: Run, row: Row, text: str, detail: str = "") -> Claim:
    """A line of what stands beside the claims: its verdict is Holm's, over all comparisons like it."""
    family = select(run.comparisons, experiment=row["experiment"], metric=row["metric"])
    p, tested = row["p_holm"], sum(not words.missing(other["p"]) for other in family)
    adjusted = "" if words.missing(p) else f"p {words.p_value(p)} after Holm over {tested}"
    return claim_of(
        run,
        row,
        text,
        kind="beside",
        clear=not words.missing(p) and p < run.alpha,
        detail="; ".join(part for part in (detail, adjusted) if part),
    )


def claims_of(run: Run) -> list[Claim]:
    """The claims: base-derived vector on the reasoning model at the chosen strength, and on the base model."""
    found = _unsteered_has_some(run)
    for plain in (metric for metric in run.metrics if metric.main and metric.sign):
        for metric in (plain, run.uncollapsed(plain)):
            if metric is not None:
                own = ", its own collapsed texts counted as unsteered ones" if metric.plain else ""
                moves = f"The base-derived vector {'raises' if metric.sign > 0 else 'lowers'} {_what(run, plain)}"
                found += _over_unsteered(run, metric, f"{moves} over unsteered{own}")
                if plain.name == JUDGED:
                    baselines = f"{moves} over every baseline of equal norm{own}"
                    found += _over_every_baseline(run, metric, baselines)
    if not run.same_model:
        found += _base_stays(run)
    return found


def _what(run: Run, metric: RunMetric) -> str:
    """A metric in a claim."""
    return f"judged {run.label} sentences" if metric.name == JUDGED else words.named(metric)


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
    elif all(_against(c) for c in effect):
        first = "The effect is not there on these prompts: the vector works the other way."
    else:
        first = "The effect is not shown on these prompts."
    same = " Base and reasoning model are one and the same model, so nothing here is about transfer." * run.same_model
    return f"{first}{_change(run)} {len(good)} of {len(claims)} claims hold.{same}"


def _against(claim: Claim) -> bool:
    """Whether a claim's whole interval lies on the other side of 0."""
    down = claim.metric is not None and claim.metric.sign < 0
    return claim.low is not None and claim.high is not None and (claim.low > 0 if down else claim.high < 0)


def _change(run: Run) -> str:
    """From how much to how much, as a sentence after a space; empty where a value is missing."""
    parts = []
    for metric in sorted((m for m in run.metrics if m.main), key=lambda m: m.name != JUDGED):
        before = run.unsteered("reasoning", metric.name)
        after = run.main(metric.name)
        if before and after and not words.missing(after[0]["mean"]):
            name = f"judged {run.label} sentences" if metric.name == JUDGED else metric.title
            change = " → ".join(words.value(row["mean"], metric) for row in (before, after[0]))
            parts.append(f"{name} {change} {words.unit(metric) if metric.of else f'({metric.unit})'}")
    where = (
        f"Base-derived vector on the reasoning model, strength {words.short(run.strength)} (chosen on other prompts)"
    )
    return f" {where}: {'; '.join(parts)}." if parts else ""


def _unsteered_has_some(run: Run) -> list[Claim]:
    """That there is something to raise: a share of 0 is none of it. Other metrics have no such zero."""
    metric = run.score
    row = run.unsteered("reasoning", metric.name)
    if row is None or not metric.of or metric.sign <= 0:
        return []
    above = row["ci_low"] is not None and row["ci_low"] > 0 and row["degenerate"] is not True
    return [
        Claim(
            text=f"The unsteered reasoning model has {_what(run, metric)} above 0",
            delta=row["mean"],
            low=row["ci_low"],
            high=row["ci_high"],
            n=int(row["n_prompts"]),
            holds=above,
            degenerate=row["degenerate"] is True,
            metric=metric,
        )
    ]


def _over_unsteered(run: Run, metric: RunMetric, text: str) -> list[Claim]:
    rows = select(
        run.comparisons,
        source="base",
        target="reasoning",
        method=run.fitter,
        layer=run.layer,
        pool="own",
        strength=run.strength,
        metric=metric.name,
        vs_method="none",
        vs_target="reasoning",
    )
    return [claim_of(run, rows[0], text)] if rows else []


def _over_every_baseline(run: Run, metric: RunMetric, text: str) -> list[Claim]:
    """One claim about all baselines: its figures are those of the baseline whose interval reaches lowest."""
    rows = select(run.comparisons, experiment="baselines", strength=run.strength, metric=metric.name)
    rows = [row for row in rows if row["vs_method"] != "none"]
    if not rows:
        return []
    closest = min(rows, key=lambda row: (row["ci_low"] is not None, row["ci_low"] or 0.0, row["delta"] or 0.0))
    beaten = [str(row["vs_method"]) for row in rows if row["holds"] is True]
    others = [str(row["vs_method"]) for row in rows if row["holds"] is not True]
    detail = f"figures against {closest['vs_method']}, where it is weakest; holds against {len(beaten)} of {len(rows)}"
    if beaten and others:
        detail += f", not against {', '.join(others)}"
    return [claim_of(run, closest, text, holds=not others, detail=detail)]


def _base_stays(run: Run) -> list[Claim]:
    """The base model against the unsteered reasoning model, at every strength of both vectors: it stays behind."""
    metric, sign = run.score, run.score.sign
    rows = select(run.comparisons, experiment="transfer", target="base", metric=metric.name, vs_target="reasoning")
    reasoning, base = run.unsteered("reasoning", metric.name), run.unsteered("base", metric.name)
    if not rows or not reasoning or not base or not sign:
        return []
    side, end = ("below", "ci_high") if sign > 0 else ("above", "ci_low")
    title = words.named(metric)
    text = f"The base model's {title} stays {side} the unsteered reasoning model's at every strength"
    closest = max(rows, key=lambda row: (row[end] is None, sign * (row[end] or 0.0), sign * (row["delta"] or 0.0)))
    behind = all(row[end] is not None and sign * row[end] < 0 and row["degenerate"] is not True for row in rows)
    steered = run.fitted(experiment="transfer", target="base", metric=metric.name)
    filled = min(int(row["n_nonempty"]) for row in [base, *steered])
    values = [row["mean"] for row in steered if row["mean"] is not None]
    most = (max if sign > 0 else min)(values, default=None)
    percent = " %" if metric.of else ""
    detail = (
        f"figures where it comes closest, {closest['source']}-derived at strength {words.short(closest['strength'])}; "
        f"{title} of the base model: unsteered {words.value(base['mean'], metric)}{percent}, "
        f"steered at {'most' if sign > 0 else 'least'} {words.value(most, metric)}{percent}; at least {filled} texts "
        "not empty"
    )
    means = base["mean"], reasoning["mean"]
    unsteered_behind = None not in means and sign * (means[0] - means[1]) < 0
    return [claim_of(run, closest, text, holds=behind and unsteered_behind, detail=detail)]
