"""Figure 3: {base, reasoning}-derived vectors × {base, reasoning} model × strength."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit.artifacts import Condition, Pair
from steerkit.context import Run
from steerkit.findings import Claim, Figure, Findings
from steerkit.judging.metrics import OTHERS
from steerkit.report import words
from steerkit.settings import Steering
from steerkit.steps.compose import beside, claim, over_strength, table
from steerkit.steps.results import Results
from steerkit.steps.vectors import Vectors
from steerkit_plugins.backtracking.choose import AtChosenStrength
from steerkit_plugins.backtracking.claims import collapsed_texts, over_unsteered, sentence, uncontrolled
from steerkit_plugins.backtracking.conditions import BASE, REASONING, fitted, is_plain, like, plain
from steerkit_plugins.backtracking.words import is_main, title_of
from steerkit_plugins.experiments.words import pages, strength_label

BOTH = (BASE, REASONING)


class Transfer(AtChosenStrength):
    """Does a vector from either model steer either model?"""

    uses = (Steering,)

    def conditions(self, run: Run, vectors: Vectors, choice: Findings) -> Sequence[Condition]:
        steered = [fitted(run, s, t, x) for s in BOTH for t in BOTH for x in run.peek(Steering).nonzero]
        return [*(plain(run, target) for target in BOTH), *steered]

    def pairs(self, run: Run, conditions: Sequence[Condition]) -> Sequence[Pair]:
        unsteered = {c.model: c for c in conditions if is_plain(c)}
        found = [Pair(ours=unsteered[BASE], other=unsteered[REASONING])]
        for c in conditions:
            if is_plain(c):
                continue
            found.append(Pair(ours=c, other=unsteered[c.model]))
            if c.model == BASE:
                found.append(Pair(ours=c, other=unsteered[REASONING]))
            elif like(c, source=BASE):
                wanted = {"source": REASONING, "target": REASONING, "strength": c.labels["strength"]}
                found += [Pair(ours=c, other=o) for o in conditions if like(o, **wanted)]
        return found

    def findings(self, run: Run, results: Results, vectors: Vectors, choice: Findings) -> Findings:
        strength = choice.value["strength"]
        claims = [*over_unsteered(run, results, self.name, strength), *_base_stays(run, results)]
        lines = {
            f"{s}-derived vector on {t} model": [
                c for c in results.conditions if c.model == t and (is_plain(c) or like(c, source=s))
            ]
            for s in BOTH
            for t in BOTH
        }
        hollow = frozenset(name for name in lines if name.endswith(f"on {BASE} model"))
        looks = {name: 0 if name.startswith(BASE) else 4 for name in lines}
        layer = run.peek(Steering).layer
        figure = Figure(
            name="transfer",
            title="Transfer between the models",
            caption="Vectors fitted to the base and to the reasoning model's activations, added to either model at "
            f"block {layer}. At 0 nothing is added.",
            heading=pages(f"Steering both models, block {layer}", results),
            panels=over_strength(results, lines, results.shown, strength_label(results), hollow=hollow, looks=looks),
        )
        columns = {
            "vector": lambda c: "none" if is_plain(c) else f"{c.labels['source']}-derived",
            "target": lambda c: str(c.labels["target"]),
            "strength": lambda c: words.short(c.labels["strength"]),
        }
        return Findings(
            title="Transfer between the models",
            question="Does a vector from either model steer either model?",
            finding=sentence(run, results, claims, strength),
            claims=(*claims, *_beside(run, results, vectors, strength)),
            figures=(figure,),
            tables=(table(results, columns, strong=lambda c: is_main(run, c, strength)),),
            cautions=(*collapsed_texts(run, results, strength), *uncontrolled(run)),
        )


def _base_stays(run: Run, results: Results) -> list[Claim]:
    """The base model against the unsteered reasoning model, at every strength of both vectors: it stays behind."""
    metric, sign = results.score, results.score.sign
    if not sign or run.models.same(BASE, REASONING):
        return []
    unsteered = {target: plain(run, target) for target in BOTH}
    of_base = [c for c in results.conditions if c.model == BASE]
    rows = [results.comparison(c, unsteered[REASONING], metric.name) for c in of_base]
    compared = [(c, row) for c, row in zip(of_base, rows, strict=True) if row is not None]
    side, end = ("below", "ci_high") if sign > 0 else ("above", "ci_low")

    def behind(row: dict[str, float]) -> bool:
        return not words.missing(row[end]) and sign * row[end] < 0 and row["degenerate"] is not True

    def reach(row: dict[str, float]) -> tuple[bool, bool, float, float]:
        """How far a condition is from staying behind: no value at all, not told, where its interval ends."""
        missing = words.missing(row[end])
        ends = (0.0, 0.0) if missing else (sign * row[end], sign * row["delta"])
        return words.missing(row["delta"]), not behind(row), *ends

    closest, row = max(compared, key=lambda each: reach(each[1]))
    plain_row = results.row(unsteered[BASE], metric.name)
    steered = [results.row(c, metric.name) for c in of_base if not is_plain(c)]
    values = [each["mean"] for each in steered if not words.missing(each["mean"])]
    most = (max if sign > 0 else min)(values, default=None)
    percent, title = " %" if metric.of else "", words.named(metric)
    where = (
        "unsteered"
        if is_plain(closest)
        else f"{closest.labels['source']}-derived at strength {words.short(closest.labels['strength'])}"
    )
    filled = min(int(each["n_nonempty"]) for each in [plain_row, *steered])
    shown = "no value" if words.missing(row["delta"]) else "figures where it comes closest"
    detail = (
        f"{shown}, {where}; {title} of the base model: unsteered "
        f"{words.value(plain_row['mean'], metric)}{percent}, steered at {'most' if sign > 0 else 'least'} "
        f"{words.value(most, metric)}{percent}; at least {filled} texts not empty"
    )
    text = f"The base model's {title} stays {side} the unsteered reasoning model's at every strength"
    return [claim(metric, row, text, holds=all(behind(each) for _, each in compared), detail=detail)]


def _beside(run: Run, results: Results, vectors: Vectors, strength: float) -> list[Claim]:
    """Other metrics, text damage, the two vectors against each other."""
    main, other = (fitted(run, source, REASONING, strength) for source in BOTH)
    unsteered = plain(run, REASONING)
    found = []
    for metric in results.shown:
        row = results.comparison(main, unsteered, metric.name)
        if row is not None and not (metric.main and metric.sign):
            found.append(beside(results, row, f"{title_of(metric)}, steered minus unsteered"))
    damage, row = results.row(main, OTHERS), results.comparison(main, unsteered, OTHERS)
    if row is not None:
        share = f"steered {words.percent(damage['mean'])} % of sentences"
        detail = f"{share}; collapsed texts: {words.number(damage['n_collapsed'])}"
        text = "Sentences that fit no label (text damage), steered minus unsteered"
        found.append(beside(results, row, text, detail))
    for metric in results.shown:
        row = results.comparison(main, other, metric.name)
        if row is not None:
            text = f"{title_of(metric)} on the reasoning model, base-derived minus reasoning-derived vector"
            found.append(beside(results, row, text))
    by_layer = vectors[run.vector(BASE)].cosine(vectors[run.vector(REASONING)])
    layer = run.peek(Steering).layer
    low, high = min(by_layer.values()), max(by_layer.values())
    text = f"Cosine of base- and reasoning-derived vectors: {words.number(by_layer.get(layer), 2)} at block {layer}"
    spread = f"{words.number(low, 2)} to {words.number(high, 2)} over blocks {min(by_layer)} to {max(by_layer)}"
    found.append(Claim(kind="beside", text=text, detail=f"{spread}; no interval: it is one pair of vectors"))
    return found
